"""What ``import mome`` does to a program, whatever it is called: the Auto classes know the models, and it is quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USES = """
import sys
import mome
assert "torch" not in sys.modules, "slow"
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
