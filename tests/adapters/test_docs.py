"""docs/adapters.md runs from top to bottom; what it learns and compares, it asserts itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mome.adapters import load_adapter
from tests.processes import torchrun

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
FENCES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
TRL, FSDP = "from trl import", "init_process_group"


def run(fences: list[str], names: dict[str, Any]) -> None:
    for fence in fences:
        exec(compile(fence, f"{PAGE.name}, example {FENCES.index(fence) + 1}", "exec"), names)


def before(mark: str, *words: str) -> list[str]:
    """The example with the mark, and those above it with one of these words."""
    place = next(place for place, fence in enumerate(FENCES) if mark in fence)
    return [*(fence for fence in FENCES[:place] if any(word in fence for word in words)), FENCES[place]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.slow
def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    fences = [fence for fence in FENCES if TRL not in fence and FSDP not in fence]
    assert len(fences) >= 8
    run(fences, {})
    shown = PAGE.read_text(encoding="utf-8").rpartition("# ParameterCount")[2].splitlines()[0]
    assert capsys.readouterr().out.strip().endswith(f"ParameterCount{shown}")


@pytest.mark.slow
def test_its_trainer_of_trl_runs() -> None:
    pytest.importorskip("trl", reason="the example of TRL needs trl")
    names: dict[str, Any] = {}
    run(before(TRL, "def tiny_llama", "before = tiny_llama()", "def train(", "AdapterTraining, Trainer"), names)
    first, *_ = names["trainer"].state.log_history
    assert 1 <= first["balance_loss"] < 2
    written = {file.name for file in Path(names["folder"], "checkpoint-100").iterdir()}
    assert "adapter_model.safetensors" in written
    assert not {"model.safetensors", "pytorch_model.bin"} & written


@pytest.mark.slow
@pytest.mark.long
def test_its_processes_share_out_a_model(tmp_path: Path) -> None:
    fences = before(FSDP, "def tiny_llama", "before = tiny_llama()", "def train(")
    (tmp_path / "page.py").write_text("\n".join(fences))
    torchrun(tmp_path / "log", "page.py", cwd=tmp_path)
    names: dict[str, Any] = {}
    run(fences[:2], names)
    trained = load_adapter(names["tiny_llama"](), tmp_path / "plurals")
    assert names["write"](trained, names["some"]) == "cat>cats baby>babies wolf>wolves mouse>mice"
