"""What a conversion writes: a folder that appears once it is complete, the weights, and what became of every tensor."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mome.checkpoints.folder import WEIGHTS
from mome.convert.fitting import dtype_name
from mome.errors import MomeError
from mome.files import set_default_permissions


@dataclass(frozen=True)
class Unused:
    """Tensors that were left out.

    Attributes:
        name: a tensor's name, or what the names of several begin with.
        tensors: how many they are.
        reason: why the model does without.
    """

    name: str
    tensors: int
    reason: str


@dataclass(frozen=True)
class Account:
    """What became of a checkpoint; ``used`` and the tensors of ``unused`` are all that it held.

    Attributes:
        model: a line on what the model is.
        used: number of tensors taken.
        parameters: number of values in them.
        dtypes: in which precisions they are stored.
        unused: what was left out.
        notes: lines on what had to be assumed.
        license: a line on the terms of the weights.
    """

    model: str
    used: int
    parameters: int
    dtypes: Sequence[str]
    unused: Sequence[Unused]
    notes: Sequence[str]
    license: str

    @classmethod
    def of(
        cls, model: str, tensors: Iterable[Tensor], unused: Sequence[Unused], notes: Sequence[str], license: str
    ) -> Account:
        """The account of a checkpoint of which these tensors were taken; values and precisions are of floating ones."""
        taken = list(tensors)
        floating = [tensor for tensor in taken if tensor.is_floating_point()]
        values, dtypes = sum(tensor.numel() for tensor in floating), sorted({dtype_name(value) for value in floating})
        return cls(model, len(taken), values, dtypes, unused, notes, license)

    @property
    def tensors(self) -> int:
        """Number of tensors in the checkpoint."""
        return self.used + sum(group.tensors for group in self.unused)

    def lines(self) -> list[str]:
        """The account for a reader."""
        precision = " and ".join(self.dtypes)
        lines = [
            self.model,
            f"used: {self.used} of {self.tensors} tensors, {self.parameters:,} values, {precision}",
        ]
        for group in self.unused:
            count = "" if group.tensors == 1 else f" ({group.tensors} tensors)"
            lines.append(f"unused: {group.name}{count}, {group.reason}")
        return [*lines, *(f"note: {note}" for note in self.notes), f"licence: {self.license}"]

    def to_json(self) -> dict[str, Any]:
        """The account for a program."""
        return asdict(self) | {"tensors": self.tensors}


def fill_card(template: str, checkpoint: Path, account: Account, **more: str) -> str:
    """The text of README.md: a template with ``{title}``, ``{file}``, ``{digest}``, ``{account}`` and ``more``."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lines = "\n".join(f"- {line}" for line in account.lines())
    title = account.model.split(":")[0]
    return template.format(title=title, file=checkpoint.name, digest=digest, account=lines, **more)


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
    set_default_permissions(folder / WEIGHTS)
