"""Floating-point operations, counted by PyTorch's formulas while a module runs on the meta device.

A multiply-add is two operations. Matrix products, convolutions and attention count, with their padded and masked
positions. Nothing is computed, so no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """PyTorch's ``FlopCounterMode`` without its module hooks, which would also count what other threads run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_meta = {leaf.is_meta for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if len(on_meta) > 1:  # lengths have values, and are on the CPU; what is computed with frames has none
            args, kwargs = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result


def count_operations(run: Callable[[], object]) -> int:
    """Count the operations of a call whose tensors are on the meta device."""
    counter = _Counter()
    # In inference mode a linear layer is one operation, which has no formula.
    with torch.inference_mode(False), torch.no_grad(), counter:
        run()
    return counter.operations


def meta(*shape: int) -> Tensor:
    """Make a float tensor of this shape on the meta device."""
    return torch.empty(shape, device="meta")


@dataclass(frozen=True)
class Growth:
    """Operations that grow with a length: ``constant + linear * length + quadratic * length ** 2``."""

    constant: float
    linear: float
    quadratic: float

    @classmethod
    def through(cls, lengths: tuple[int, int, int], operations: Sequence[int]) -> Growth:
        """The growth with these operations at three lengths, of which each is longer than the last by the same step."""
        (start, middle, _), (first, second, third) = lengths, operations
        step = middle - start
        quadratic = (third - 2 * second + first) / (2 * step**2)
        linear = (second - first) / step - quadratic * (start + middle)
        return cls(first - linear * start - quadratic * start**2, linear, quadratic)

    def __call__(self, length: int) -> int:
        """Operations at a length; 0 at length 0."""
        return round(self.constant + self.linear * length + self.quadratic * length**2) if length else 0
