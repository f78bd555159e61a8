"""Floating-point operations, counted by PyTorch's formulas while a module runs on the meta device.

A multiply-add counts as two operations; matrix products, convolutions and attention count, padding and masked
positions included. Nothing is computed, so a configuration suffices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """As PyTorch's ``FlopCounterMode``, whose hooks would also see the modules that other threads run."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result


def count_operations(run: Callable[[], object]) -> int:
    """Operations of a call whose tensors are on the meta device."""
    with torch.no_grad(), _Counter() as counter:
        run()
    return counter.operations


def meta(*shape: int) -> Tensor:
    """A float tensor of this shape without content."""
    return torch.empty(shape, device="meta")


@dataclass(frozen=True)
class Growth:
    """Operations that grow with a length: ``constant + linear * length + quadratic * length ** 2``."""

    constant: float
    linear: float
    quadratic: float

    @classmethod
    def of(cls, operations: Callable[[int], int], step: int) -> Growth:
        """The growth through the operations at ``step``, 2 ``step`` and 3 ``step``."""
        first, second, third = (operations(times * step) for times in (1, 2, 3))
        quadratic = (third - 2 * second + first) / (2 * step**2)
        linear = (second - first) / step - 3 * quadratic * step
        return cls(first - linear * step - quadratic * step**2, linear, quadratic)

    def __call__(self, length: int) -> int:
        """Operations at a length; none at length 0."""
        return round(self.constant + self.linear * length + self.quadratic * length**2) if length else 0
