"""Where the bundled demonstration model lives."""

from __future__ import annotations

from pathlib import Path

from mome.errors import MomeError

BUNDLED = Path(__file__).resolve().parent.parent / "mome-tiny"


def bundled_model() -> Path:
    """The folder of ``mome-tiny`` inside the installed package."""
    if not (BUNDLED / "config.json").exists():
        raise MomeError(f"the bundled model is not at {BUNDLED}: reinstall the package, or give a model folder")
    return BUNDLED
