"""Damage to bytes and to values, from seeded random numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

Random = np.random.Generator

_WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e30, 10**6, 10**12, 2**31, 2**63, -(10**9), 10**400),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "x", "1", "none", "../..", "/etc/passwd", "/dev/zero", "./"),
    *(
        "a" * 5000,
        "\x00",
        "\x1b[31mred",
        "\ud800",
        "ü",
        "owner/name",
        "a\nb",
        "${oc.env:HOME}",
        "!!python/object:os.system x",
    ),
    *([], [1], [[]], [None], ["a", 1], [1, 2] * 200, [10**9], {}, {"type": "x"}, {"a": {"b": {}}}, {"type": "lora"}),
)
"""Values that a careless program takes for others."""


def pick(rng: Random, choices: Any) -> Any:
    """One of them."""
    return choices[int(rng.integers(len(choices)))]


def damage(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    """``data`` with one to three changes, many of them near its start, where headers are."""
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return bytes(rng.integers(256, size=int(rng.integers(1, 200)), dtype=np.uint8))
        data = _damage_once(bytearray(data), rng, other)
    return data


def _place(data: bytearray, rng: Random) -> int:
    end = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    return int(rng.integers(end))


def _damage_once(data: bytearray, rng: Random, other: bytes) -> bytes:
    kind, at = int(rng.integers(9)), _place(data, rng)
    length = int(rng.integers(1, 1 + max(1, min(len(data), 4096) // 2)))
    if kind == 0:
        for _ in range(int(rng.integers(1, 20))):
            data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        word = pick(rng, _WORDS).to_bytes(4, pick(rng, ("big", "little")))
        data[at : at + 4] = word[: len(data[at : at + 4])]
    elif kind == 2:
        return bytes(data[: int(rng.integers(len(data)))])
    elif kind == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = data[at : at + length]
    elif kind == 6:
        data[at:at] = bytes(rng.integers(256, size=length, dtype=np.uint8))
    elif kind == 7:
        start = int(rng.integers(max(len(other), 1)))
        data[at : at + length] = other[start : start + length]
    else:
        return bytes(data) + other
    return bytes(data)


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in nested mappings and lists."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def change(values: Any, rng: Random, extra: dict[str, Any]) -> Any:
    """A copy of nested values of which one or two are other ones, missing, or new."""
    values = copy.deepcopy(values)
    for _ in range(int(rng.integers(1, 3))):
        ways = list(places(values))
        if not ways or rng.random() < 0.15:
            key = pick(rng, list(extra))
            values[key] = copy.deepcopy(extra[key])
            continue
        *path, last = pick(rng, ways)
        holder = values
        for key in path:
            holder = holder[key]
        if rng.random() < 0.2:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(pick(rng, ODD))
    return values
