"""Write the folder of a conversion: its weights, and an account of the checkpoint's tensors."""

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
from mome.errors import MomeError, reason
from mome.files import set_default_permissions


@dataclass(frozen=True)
class Unused:
    """Tensors of a checkpoint that are not in the folder.

    Attributes:
        name: the tensor's name, or the common beginning of several names.
        tensors: number of tensors.
        reason: why the model does not need them.
    """

    name: str
    tensors: int
    reason: str


@dataclass(frozen=True)
class Account:
    """What a conversion did with a checkpoint's tensors, each of which is either used or unused.

    Attributes:
        model: a line that describes the model.
        used: number of tensors that the model has.
        parameters: number of values in them.
        dtypes: precisions that they are stored in.
        unused: the other tensors.
        notes: lines on assumptions.
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
        """The account of a checkpoint with these used tensors; ``parameters`` counts floating-point values only."""
        used = list(tensors)
        floating = [tensor for tensor in used if tensor.is_floating_point()]
        values, dtypes = sum(tensor.numel() for tensor in floating), sorted({dtype_name(value) for value in floating})
        return cls(model, len(used), values, dtypes, unused, notes, license)

    @property
    def tensors(self) -> int:
        """Number of tensors in the checkpoint."""
        return self.used + sum(group.tensors for group in self.unused)

    def lines(self) -> list[str]:
        """The account as lines of text."""
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
        """The account as JSON values."""
        return asdict(self) | {"tensors": self.tensors}


def fill_card(template: str, checkpoint: Path, account: Account, **more: str) -> str:
    """The text of README.md: a template with ``{title}``, ``{file}``, ``{digest}``, ``{account}`` and ``more``."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lines = "\n".join(f"- {line}" for line in account.lines())
    title = account.model.split(":")[0]
    return template.format(title=title, file=checkpoint.name, digest=digest, account=lines, **more)


def check_free(out: Path) -> None:
    """Check that a new folder can be made at ``out``.

    Raises:
        MomeError: there is something other than an empty folder.
    """
    try:
        free = not os.path.lexists(out) or not any(out.iterdir())
    except OSError:
        free = False
    if not free:
        raise MomeError(f"{out} is there already: give a new or empty folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which is renamed to ``out`` when the block has succeeded.

    Raises:
        MomeError: ``out`` exists, or writing failed; nothing is left behind then.
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
        raise MomeError(f"{out} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``model.safetensors``; tensors that share memory are copied, as the format does not allow sharing."""
    apart: dict[str, Tensor] = {}
    end = 0
    for name, tensor in sorted(state.items(), key=lambda item: (item[1].data_ptr(), -item[1].nbytes)):
        if tensor.is_contiguous() and tensor.data_ptr() >= end:
            apart[name], end = tensor, tensor.data_ptr() + tensor.nbytes
        else:
            apart[name] = tensor.clone(memory_format=torch.contiguous_format)
    save_file(apart, folder / WEIGHTS, metadata={"format": "pt"})
    set_default_permissions(folder / WEIGHTS)
