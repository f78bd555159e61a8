"""A file in the folder of connectors, encoders or adapters is known without any other edit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mome

FILES = {
    "connectors": """
from mome.connectors.base import ConnectorConfig


class DroppedConfig(ConnectorConfig, kind="dropped"):
    def build(self, around): ...
""",
    "encoders": """
from mome.encoders.base import AudioEncoder


class DroppedEncoder(AudioEncoder, reads="dropped", types=("dropped",)): ...
""",
    "adapters": """
from mome.adapters.base import AdapterConfig


class DroppedConfig(AdapterConfig, kind="dropped"):
    def attach(self, layers): ...
    def count(self, language_model): ...
""",
}
KNOWN = """
import mome
from mome.adapters import ADAPTERS
from mome.connectors import CONNECTORS
from mome.encoders import AUDIO_ENCODERS

assert mome.__file__.startswith({folder!r})
print(["dropped" in known for known in (ADAPTERS, CONNECTORS, AUDIO_ENCODERS)])
"""


@pytest.mark.slow
def test_a_file_in_its_room_is_enough(tmp_path: Path):
    package = tmp_path / "mome"
    shutil.copytree(Path(mome.__file__).parent, package, ignore=shutil.ignore_patterns("mome-tiny", "__pycache__"))
    for room, code in FILES.items():
        (package / room / "dropped.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "-c", KNOWN.format(folder=str(tmp_path))],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "[True, True, True]\n", run.stderr
