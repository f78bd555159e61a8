"""The folder of a checkpoint: where it is, and what lies in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mome.checkpoints.bundled import BUNDLED_NAME, bundled_folder
from mome.checkpoints.hub import Repository, could_be_id
from mome.checkpoints.settings import blaming, check_settings, is_folder, read_settings
from mome.config import MomeConfig
from mome.errors import MomeError, shortened

WEIGHTS = "model.safetensors"
INSIDE = "./"  # a reference that starts so is a sub-folder of the checkpoint


def model_folder(name: str | os.PathLike | None = None, revision: str | None = None, **hub: Any) -> Path:
    """The local folder of a model: the bundled one by default, else a folder or a hub repository.

    ``hub`` is as for :func:`checkpoint_folder`.

    Raises:
        MomeError: there is no such model.
    """
    if name is None or str(name) == BUNDLED_NAME:
        return bundled_folder()
    return checkpoint_folder(name, revision, **hub)


def checkpoint_folder(name: str | os.PathLike, revision: str | None = None, **hub: Any) -> Path:
    """The local folder of a checkpoint, downloaded from the hub if ``name`` is an id there.

    ``hub`` is ``token``, ``cache_dir`` and ``local_files_only`` of the hub's own functions.

    Raises:
        MomeError: there is no such folder, or the hub has no such model or cannot be reached.
    """
    path = Path(name)
    if is_folder(path):
        if not (path / "config.json").exists():
            raise MomeError(f"{path} is not a model folder: it has no config.json")
        return path
    if len(path.parts) != 2 or not could_be_id(str(name)):
        raise MomeError(f"no model at {shortened(name, 120)}: give a model folder or a hub id such as owner/name")
    return Repository(str(name), f"model {name}", revision, hub).checkpoint()


def read_config(folder: Path) -> MomeConfig:
    """A checkpoint's configuration.

    Raises:
        MomeError: it is unreadable, of another kind of model, describes none that can be built, or asks for what a
            model folder may not ask for.
    """
    kind = read_settings(folder / "config.json").get("model_type")
    if kind != MomeConfig.model_type:
        raise MomeError(f"{folder} is a model of type {kind!s:.60}, not a speech recogniser of this package")
    check_settings(folder)
    with blaming(folder / "config.json", "is not a readable model configuration"):
        return MomeConfig.from_pretrained(folder, trust_remote_code=False)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's trained weights.

    Raises:
        MomeError: the file is missing or damaged.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise MomeError(f"{folder} has no {WEIGHTS}: the model folder is incomplete, copy or download it again")
    with blaming(file, "is damaged"):
        return load_file(file)


def part_folder(folder: Path, reference: str, kind: str) -> str:
    """The sub-folder of a checkpoint that holds a backbone's own weights.

    Raises:
        MomeError: it is missing, or not inside the folder.
    """
    part = folder / reference
    what = kind.replace("_", " ")
    if ".." in Path(reference).parts:
        raise MomeError(f"the {what} {reference} is outside the model folder {folder}: correct its config.json")
    if not is_folder(part):
        raise MomeError(
            f"the {what} {part} cannot be loaded: the model folder is incomplete, copy or download it again"
        )
    return str(part)
