"""``pytest --golden DIR``, as it is typed in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_folder_alone_on_the_command_line(tmp_path):
    for kind in ("safetensors", "json"):
        (tmp_path / f"llama-mtsk-ms-other.{kind}").touch()
    rooms = [f"--ignore=tests/{room.name}" for room in (ROOT / "tests").iterdir() if room.is_dir()]
    rooms.remove("--ignore=tests/model")
    command = [sys.executable, "-m", "pytest", "--golden", str(tmp_path), "--collect-only", "-q", *rooms]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[llama-mtsk-ms-other]" in done.stdout
    assert "[omni-avsr-none]" not in done.stdout
