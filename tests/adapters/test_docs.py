"""docs/adapters.md runs from top to bottom; what it learns and compares, it asserts itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    fences = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(fences) >= 8
    names: dict = {}
    for number, fence in enumerate(fences):
        exec(compile(fence, f"{PAGE.name}, example {number + 1}", "exec"), names)
    shown = PAGE.read_text(encoding="utf-8").rpartition("# ParameterCount")[2].splitlines()[0]
    assert capsys.readouterr().out.strip().endswith(f"ParameterCount{shown}")
