"""Whether a checkpoint's tensors are those that a model has.

Sizes are read with :func:`told` and :func:`count`, which one missing or mis-shaped tensor does not mislead, so that
:func:`checked` can list all that does not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mome.errors import MomeError, listed

MOST = 50  # differences that a message lists


def told(state: Mapping[str, Any], *places: tuple[str, int, int]) -> int | None:
    """The size that most tensors tell; ``None`` where none does.

    Args:
        state: names to tensors.
        places: pattern of whole names, number of dimensions, and the dimension that has the size.
    """
    found: Counter[int] = Counter()
    for pattern, dimensions, axis in places:
        for key in filter(re.compile(pattern).fullmatch, state):
            shape = state[key].shape if isinstance(state[key], Tensor) else ()
            if len(shape) == dimensions and shape[axis]:
                found[shape[axis]] += 1
    return found.most_common(1)[0][0] if found else None


def count(numbers: Iterable[int]) -> int:
    """How many numbered modules there are: up to the last number below which at least every second one is there."""
    return max((n + 1 for rank, n in enumerate(sorted(set(numbers)), 1) if n < 2 * rank), default=0)


def checked(
    weights: Mapping[str, Any],
    expected: Mapping[str, Tensor],
    what: str,
    called: Callable[[str], str] = str,
    more: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The weights in the model's order, once names, shapes and kinds are what the model has.

    Args:
        weights: the checkpoint's, under the model's names.
        expected: the model's.
        what: how the message begins, such as ``large.pt does not fit AV-HuBERT``.
        called: what the message calls a tensor of this name.
        more: differences that were found before.

    Raises:
        MomeError: they are not; every difference is counted, and the first ones are listed.
    """
    problems = [f"{called(key)} is missing" for key in expected if key not in weights]
    problems += [f"{called(key)} is unknown" for key in weights if key not in expected]
    for key, model in expected.items():
        if key in weights and (why := misfit(weights[key], model)):
            problems.append(f"{called(key)} is {why}")
    problems = list(dict.fromkeys([*problems, *more]))  # one tensor of the file may be several of the model's
    if problems:
        count = f"{len(problems)} difference{'s' if len(problems) > 1 else ''}"
        raise MomeError(f"{what} ({count}): {listed(problems, MOST)}")
    return {key: weights[key].detach() for key in expected}


def misfit(found: object, model: Tensor) -> str | None:
    """What is wrong with ``found`` in place of the model's tensor; ``None`` where it fits."""
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.device.type != "cpu":
        return "not an ordinary tensor"
    if found.shape != model.shape:
        return f"{tuple(found.shape)} instead of {tuple(model.shape)}"
    if found.is_floating_point() != model.is_floating_point() or found.is_quantized:
        return f"of type {dtype_name(found)}"
    return None


def same(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, be they of different precision."""
    return torch.equal(tensor.to(other.dtype), other) and torch.equal(tensor, other.to(tensor.dtype))


def same_rounded(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers once the finer is rounded as the other is."""
    return torch.equal(tensor.to(other.dtype), other) or torch.equal(tensor, other.to(tensor.dtype))


def dtype_name(tensor: Tensor) -> str:
    """The precision, such as ``float16``."""
    return str(tensor.dtype).removeprefix("torch.")
