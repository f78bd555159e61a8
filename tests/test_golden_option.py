"""``pytest --golden DIR``, as it is typed in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def collected(folder: Path, *arguments: str) -> str:
    """What pytest finds with other golden vectors in a folder; it is started in the checkout."""
    for kind in ("safetensors", "json"):
        (folder / f"llama-mtsk-ms-other.{kind}").touch()
    rooms = [f"--ignore=tests/{room.name}" for room in (ROOT / "tests").iterdir() if room.is_dir()]
    rooms.remove("--ignore=tests/model")
    rooms.append("--ignore-glob=tests/model/test_[!g]*")  # it takes long, and has no golden vectors
    command = [sys.executable, "-m", "pytest", *arguments, "--collect-only", "-q", *rooms]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_folder_alone_on_the_command_line(tmp_path):
    if not any(plugin.name == "golden_option" for plugin in entry_points(group="pytest11")):
        pytest.skip("make install has not installed scripts/golden_option")
    found = collected(tmp_path, "--golden", str(tmp_path))
    assert "[llama-mtsk-ms-other]" in found
    assert "[omni-avsr-none]" not in found


@pytest.mark.slow
def test_the_folder_as_part_of_the_option(tmp_path):
    assert "[llama-mtsk-ms-other" in collected(tmp_path, f"--golden={tmp_path}", "-v")


def test_the_package_itself_brings_no_plugin():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "entry-points" not in settings["project"]
    assert "py-modules" not in settings["tool"]["setuptools"]
