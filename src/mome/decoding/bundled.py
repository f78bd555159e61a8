"""Where the bundled demonstration model lives."""

from __future__ import annotations

from pathlib import Path

from mome.errors import MomeError
from mome.model.checkpoint import checkpoint_folder

BUNDLED_NAME = "mome-tiny"
BUNDLED = Path(__file__).resolve().parent.parent / "mome-tiny"


def model_folder(name: str | Path | None = None, revision: str | None = None) -> Path:
    """The local folder of a model: the bundled one by default, else a folder or a hub repository.

    Raises:
        MomeError: there is no such model.
    """
    if name is not None and str(name) != BUNDLED_NAME:
        return checkpoint_folder(name, revision)
    if not (BUNDLED / "config.json").exists():
        raise MomeError(f"the bundled model is not at {BUNDLED}: reinstall the package, or give a model folder")
    return BUNDLED
