"""Compare a checkpoint's tensors with a model's.

:func:`read_size` and :func:`count_modules` read a model's sizes from many tensors, so that one missing or mis-shaped
tensor does not change them and :func:`checked` can list everything that does not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mome.errors import MomeError, listed

MOST = 50  # differences listed in a message


def read_size(state: Mapping[str, Any], *places: tuple[str, int, int]) -> int | None:
    """The most common size among the tensors of some names; ``None`` if there are no such tensors.

    Args:
        state: tensors by name.
        places: a pattern for the full name, the number of dimensions, and the dimension whose size is read.
    """
    found: Counter[int] = Counter()
    for pattern, dimensions, axis in places:
        for key in filter(re.compile(pattern).fullmatch, state):
            shape = state[key].shape if isinstance(state[key], Tensor) else ()
            if len(shape) == dimensions and shape[axis]:
                found[shape[axis]] += 1
    return found.most_common(1)[0][0] if found else None


def count_modules(numbers: Iterable[int]) -> int:
    """Number of numbered modules: the largest number below which at least half of the numbers exist."""
    return max((n + 1 for rank, n in enumerate(sorted(set(numbers)), 1) if n < 2 * rank), default=0)


def checked(
    weights: Mapping[str, Any],
    expected: Mapping[str, Tensor],
    what: str,
    called: Callable[[str], str] = str,
    more: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Check names, shapes and types of weights, and return the weights in the model's order.

    Args:
        weights: of the checkpoint, under the model's names.
        expected: the model's state dict.
        what: the beginning of the message, such as ``large.pt does not fit AV-HuBERT``.
        called: maps a name to what messages call it.
        more: differences that were found before.

    Raises:
        MomeError: names, shapes or types differ; it counts all differences and lists the first ones.
    """
    problems = [f"{called(key)} is missing" for key in expected if key not in weights]
    problems += [f"{called(key)} is unknown" for key in weights if key not in expected]
    for key, model in expected.items():
        if key in weights and (why := misfit(weights[key], model)):
            problems.append(f"{called(key)} is {why}")
    problems = list(dict.fromkeys([*problems, *more]))  # a tensor of the file may become several of the model
    if problems:
        count = f"{len(problems)} difference{'s' if len(problems) > 1 else ''}"
        raise MomeError(f"{what} ({count}): {listed(problems, MOST)}")
    return {key: weights[key].detach() for key in expected}


def misfit(found: object, model: Tensor) -> str | None:
    """Why ``found`` cannot replace the model's tensor; ``None`` if it can."""
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.device.type != "cpu":
        return "not an ordinary tensor"
    if found.shape != model.shape:
        return f"{tuple(found.shape)} instead of {tuple(model.shape)}"
    if found.is_floating_point() != model.is_floating_point() or found.is_quantized:
        return f"of type {dtype_name(found)}"
    return None


def same(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors, also of different precision, hold exactly the same numbers."""
    return torch.equal(tensor.to(other.dtype), other) and torch.equal(tensor, other.to(tensor.dtype))


def same_rounded(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers once the finer one is rounded to the precision of the other."""
    return torch.equal(tensor.to(other.dtype), other) or torch.equal(tensor, other.to(tensor.dtype))


def dtype_name(tensor: Tensor) -> str:
    """The name of a tensor's precision, such as ``float16``."""
    return str(tensor.dtype).removeprefix("torch.")
