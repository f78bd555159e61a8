"""The folder of the bundled demonstration model."""

from __future__ import annotations

from pathlib import Path

from mome.errors import MomeError

BUNDLED_NAME = "mome-tiny"
BUNDLED = Path(__file__).resolve().parent.parent / "mome-tiny"


def bundled_folder() -> Path:
    """The bundled model's folder.

    Raises:
        MomeError: it is missing from the installation.
    """
    if not (BUNDLED / "config.json").exists():
        raise MomeError(f"the bundled model is not at {BUNDLED}: reinstall the package, or give a model folder")
    return BUNDLED
