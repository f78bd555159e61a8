"""A model with Whisper's whole window, as the published systems have it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def window_model(model: Path, folder: Path) -> Path:
    """A copy of a checkpoint, in ``folder``, whose sound is padded to the window."""
    shutil.copytree(model, folder)
    for name in ("config.json", "processor_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "audio_context": "window"}))
    return folder
