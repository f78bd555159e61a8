"""Checks of a recipe's values: functions of a key and its value that raise :class:`MomeError` naming the key."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import MISSING

from mome.clip import LARGEST_SNR
from mome.errors import MomeError, shortened
from mome.rates import TASKS, Rates

MOST = 10**9  # the largest integer that a recipe may give
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes, the limits of file systems

Check = Callable[[str, Any], None]


def _refuse(key: str, value: object, remedy: str) -> MomeError:
    return MomeError(f"{key}={shortened(value)} is not possible: {remedy}")


def integer(least: int, most: int = MOST) -> Check:
    """A whole number from ``least`` to ``most``."""

    def check(key: str, value: int) -> None:
        if not least <= value <= most:
            raise _refuse(key, value, f"give {least} or more" if value < least else f"give {most} or less")

    return check


def number(key: str, value: float) -> None:
    """A finite number from 0 up."""
    if not (value >= 0 and math.isfinite(value)):
        raise _refuse(key, value, "give a number from 0 up")


def positive(key: str, value: float) -> None:
    """A finite number above 0."""
    if not (value > 0 and math.isfinite(value)):
        raise _refuse(key, value, "give a number above 0")


def share(key: str, value: float) -> None:
    """A number from 0 to 100."""
    if not 0 <= value <= 100:
        raise _refuse(key, value, "give a number from 0 to 100")


def fraction(key: str, value: float) -> None:
    """A number from 0 to 1."""
    if not 0 <= value <= 1:
        raise _refuse(key, value, "give a number from 0 to 1")


def epochs(key: str, value: float) -> None:
    """A number of epochs, above 0."""
    positive(key, value)
    if value > MOST:
        raise _refuse(key, value, f"give {MOST} or less")


def one_of(names: Sequence[str]) -> Check:
    """One of these names."""

    def check(key: str, value: str) -> None:
        if value not in names:
            raise MomeError(f"{key}={shortened(value)} is unknown: choose {' or '.join(names)}")

    return check


def path(key: str, value: str) -> None:
    """Check that a file can have this name; whether it exists is checked when it is used."""
    if not value.strip():
        raise MomeError(f"{key} is empty: name a file or folder, or leave it out")
    name = os.fsencode(value)
    if len(name) > LONGEST_PATH or max(map(len, name.split(b"/"))) > LONGEST_NAME:
        raise _refuse(key, value, "it is longer than the name of a file can be")


def rates(key: str, value: str) -> None:
    """A pair of rates."""
    try:
        Rates.parse(value)
    except MomeError as error:
        raise MomeError(f"{key}: {error}") from error


def filled(key: str, value: str) -> None:
    """A text with more than spaces."""
    if not value.strip():
        raise MomeError(f"{key} is empty: give a name")


def each(check: Check, empty: bool = True) -> Check:
    """A check of a list: ``check`` for each element, and for an empty list unless ``empty`` allows it."""

    def check_all(key: str, values: Sequence[Any]) -> None:
        if not values and not empty:
            raise MomeError(f"{key} is empty: give one or more, such as {key}=[VALUE], or leave it out")
        for value in values:
            check(key, value)

    return check_all


def tasks(key: str, tasks: Sequence[str]) -> None:
    """Check a list of tasks, or the keys of a dict."""
    for task in tasks:
        if task not in TASKS:
            raise MomeError(f"{key}: unknown task '{shortened(task)}', the tasks are {', '.join(TASKS)}")


def some_tasks(key: str, names: Sequence[str]) -> None:
    """A list of tasks that is not empty."""
    if not names:
        raise MomeError(f"{key} is empty: choose from {', '.join(TASKS)}")
    tasks(key, names)


def task_weights(key: str, weights: dict[str, float]) -> None:
    """Factors by task."""
    tasks(key, list(weights))
    for task, weight in weights.items():
        number(f"{key}.{task}", weight)


def rate_weights(key: str, weights: dict[str, float]) -> None:
    """Factors by rates."""
    for pair, weight in weights.items():
        rates(key, pair)
        number(f"{key}.{shortened(pair)}", weight)


def betas(key: str, value: list[float]) -> None:
    """AdamW's two factors."""
    if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
        raise _refuse(key, value, "give two numbers from 0 to less than 1, such as [0.9,0.98]")


def snr(key: str, value: float) -> None:
    """A signal-to-noise ratio in dB, or infinity for clean speech."""
    if not (value == math.inf or abs(value) <= LARGEST_SNR):
        raise MomeError(f"{key} holds {value}: give -{LARGEST_SNR:g} to {LARGEST_SNR:g} dB, or .inf for clean")


def run(part: Any, prefix: str, **checks: Check) -> None:
    """Run the checks of these keys on their values; null and missing values pass."""
    for key, check in checks.items():
        value = getattr(part, key)
        if value is None or value == MISSING:
            continue
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if any(isinstance(item, list | dict) for item in items):
            raise MomeError(f"{prefix}{key} holds a list or keys of its own where a single value belongs: correct it")
        check(prefix + key, value)
