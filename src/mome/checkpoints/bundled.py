"""The folders of the models that are inside the package."""

from __future__ import annotations

from pathlib import Path

from mome.errors import MomeError

BUNDLED_NAME = "mome-tiny"  # the default: it needs no other files
BUNDLED = {name: Path(__file__).resolve().parent.parent / name for name in (BUNDLED_NAME, "mome-base")}


def bundled_folder(name: str = BUNDLED_NAME) -> Path:
    """A bundled model's folder.

    Raises:
        MomeError: it is missing from the installation.
    """
    folder = BUNDLED[name]
    if not (folder / "config.json").exists():
        raise MomeError(
            f"the bundled model is not at {folder}: reinstall the package if its version has it, make it in the "
            f"repository by 'make {name}', or give a model folder"
        )
    return folder
