"""Folders that appear under their name only once they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mome.checkpoints.folder import WEIGHTS
from mome.errors import MomeError
from mome.files import open_as_usual


def check_free(out: Path) -> None:
    """Say before the work that a folder could not be written there.

    Raises:
        MomeError: something is there already, an empty folder excepted.
    """
    try:
        free = not os.path.lexists(out) or not any(out.iterdir())
    except OSError:
        free = False
    if not free:
        raise MomeError(f"{out} is there already: give a new or empty folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` to write into, which becomes ``out`` when all went well.

    Raises:
        MomeError: ``out`` is taken, or writing failed; nothing is left behind then.
    """
    check_free(out)
    target = out.resolve()  # a link to an empty folder stays a link
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists():
            target.rmdir()
        part.rename(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MomeError(f"{out} cannot be written: {reason}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``model.safetensors``; of tensors that overlap, which the format does not have, all but one are copied."""
    apart: dict[str, Tensor] = {}
    end = 0
    for name, tensor in sorted(state.items(), key=lambda item: (item[1].data_ptr(), -item[1].nbytes)):
        if tensor.is_contiguous() and tensor.data_ptr() >= end:
            apart[name], end = tensor, tensor.data_ptr() + tensor.nbytes
        else:
            apart[name] = tensor.clone(memory_format=torch.contiguous_format)
    save_file(apart, folder / WEIGHTS, metadata={"format": "pt"})
    open_as_usual(folder / WEIGHTS)
