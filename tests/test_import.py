"""After ``import mome``, Transformers' Auto classes know its models, whatever the program is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mome

ROOT = Path(__file__).parents[1]
USES = """
import mome
from transformers import AutoConfig, AutoModelForMultimodalLM
config = AutoConfig.for_model("mome", audio_rates=[4])
assert type(config) in AutoModelForMultimodalLM._model_mapping
print(type(config).__name__, AutoConfig.for_model("avhubert").model_type)
"""


def said(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["mome", "mome.py"])
def test_a_script_of_any_name(tmp_path, name):
    (tmp_path / name).write_text(USES)
    # Without -P, a script called mome.py would import itself.
    assert said(tmp_path, "-P", name) == "MomeConfig avhubert\n"


def test_a_program_started_as_a_module(tmp_path):
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text(USES)
    (tmp_path / "tool" / "__main__.py").touch()
    assert said(tmp_path, "-m", "tool") == "MomeConfig avhubert\n"


def test_transformers_first(tmp_path):
    code = "from transformers import AutoConfig; import mome; print(AutoConfig.for_model('avhubert').model_type)"
    assert said(tmp_path, "-c", code) == "avhubert\n"


@pytest.mark.parametrize(
    "first",
    [
        "import mome.config",
        "from mome.decoding import load",
        "import mome; mome.MomeConfig",
        "import transformers.pipelines",
        "import mome; from transformers import AutoTokenizer",
        "import mome; from transformers import WhisperForConditionalGeneration",
        "import mome; from transformers import Trainer",
    ],
)
def test_whatever_is_imported_first(tmp_path, first):
    assert said(tmp_path, "-c", f"{first}\n{USES}") == "MomeConfig avhubert\n"


def test_the_package_alone_needs_no_deep_learning_library(tmp_path):
    code = "import sys, mome, mome.rates; print({'torch', 'transformers', 'numpy'} & {*sys.modules})"
    assert said(tmp_path, "-c", code) == "set()\n"


@pytest.mark.parametrize("before", [(), ("-X", "utf8")])
def test_the_command_line_waits_for_a_command_that_needs_a_model(tmp_path, monkeypatch, before):
    script = tmp_path / "mome"
    script.write_text("import sys\nfrom mome.cli import main\nprint('torch' in sys.modules)\nmain()\n")
    assert said(tmp_path, *before, "-P", "mome", "--version").startswith("False\nmome ")
    loaded = "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))\n"
    (tmp_path / "sitecustomize.py").write_text(loaded)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert said(ROOT, *before, "-m", "mome", "--version").splitlines()[1:] == ["False"]


def test_a_module_of_the_command_lines_name_is_told_from_it(tmp_path):
    (tmp_path / "tool.py").write_text(USES)
    assert said(tmp_path, "-m", "tool", "-m", "mome") == "MomeConfig avhubert\n"


def test_dir_shows_what_there_is_to_use():
    assert {*mome.__all__, "media", "training", "__version__"} <= {*dir(mome)}
    assert not {"Any", "importlib", "sys", "annotations", "_HOMES"} & {*dir(mome)}
    assert all(getattr(mome, name) is not None for name in dir(mome))
