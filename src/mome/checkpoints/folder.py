"""The folder of a recogniser: find it, and read its configuration and weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.checkpoints.names import CHECKPOINT_FILES
from mome.checkpoints.settings import blaming, check_settings, is_folder, read_settings
from mome.checkpoints.source import Source, is_hub_id
from mome.config import MomeConfig
from mome.errors import MomeError, shortened

WEIGHTS = "model.safetensors"
INSIDE = "./"  # prefix of references to sub-folders of the checkpoint


def model_folder(name: str | os.PathLike[str] | None = None, revision: str | None = None, **hub: Any) -> Path:
    """The local folder of a recogniser, downloaded from the hub if ``name`` is an id there.

    Args:
        name: a folder or hub id; ``None`` is the bundled model.
        revision: of the hub repository.
        hub: ``token``, ``cache_dir`` and ``local_files_only``, passed on to ``huggingface_hub``.

    Raises:
        MomeError: there is no such folder, the hub has no such model or cannot be reached, or the model is not a
            recogniser of this package.
    """
    name = BUNDLED_NAME if name is None else str(name)
    source = Source(name, f"model {name}", revision, hub=hub)
    if source.folder is None and not is_hub_id(name):
        raise MomeError(f"no model at {shortened(name, 120)}: give a model folder or a hub id such as owner/name")
    folder = source.settings(["config.json"])
    if not (folder / "config.json").exists():
        is_none = "is not a speech recogniser of this package" if source.folder is None else "is not a model folder"
        raise MomeError(f"{source.folder or source.what} {is_none}: it has no config.json")
    kind = read_settings(folder / "config.json").get("model_type")
    if kind != MomeConfig.model_type:
        raise MomeError(f"{source.what} is of type {kind!s:.60}, not a speech recogniser of this package")
    return source.complete(folder, CHECKPOINT_FILES)


def read_config(folder: Path) -> MomeConfig:
    """The configuration in a folder that :func:`model_folder` gave.

    Raises:
        MomeError: it is not readable, describes no possible model, or :func:`check_settings` refuses it.
    """
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
    """The sub-folder of a checkpoint that holds a backbone.

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
