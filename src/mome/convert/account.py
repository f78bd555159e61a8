"""What a conversion says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


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

    @property
    def tensors(self) -> int:
        """Number of tensors in the checkpoint."""
        return self.used + sum(one.tensors for one in self.unused)

    def lines(self) -> list[str]:
        """The account for a reader."""
        precision = " and ".join(self.dtypes)
        lines = [
            self.model,
            f"used: {self.used} of {self.tensors} tensors, {self.parameters:,} values, {precision}",
        ]
        for one in self.unused:
            count = "" if one.tensors == 1 else f" ({one.tensors} tensors)"
            lines.append(f"unused: {one.name}{count}, {one.reason}")
        return [*lines, *(f"note: {note}" for note in self.notes), f"licence: {self.license}"]

    def to_json(self) -> dict[str, Any]:
        """The account for a program."""
        return asdict(self) | {"tensors": self.tensors}
