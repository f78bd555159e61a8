"""Options whose ``type`` names a dataclass: those of adapters and connectors in configurations and recipes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from mome.errors import MomeError, shortened

Options = TypeVar("Options")

_types: Callable[[Any], dict[str, Any]] = cache(get_type_hints)  # slow, and asked for again and again
_VALUES = {float: "a number", bool: "true or false", tuple[str, ...]: "a list of names"}


def options_from_dict(what: str, kinds: Mapping[str, type[Options]], values: Mapping[str, Any]) -> Options:
    """Make the dataclass that ``values`` describe.

    Args:
        what: what the options are for, as messages say it, such as ``adapter``.
        kinds: the dataclasses by type.
        values: ``"type"`` and any of the dataclass's fields.

    Raises:
        MomeError: the type is missing or unknown, a key is unknown (the nearest name is suggested), a needed key
            is missing, or a value is not possible.
    """
    kind = str(values.get("type"))
    if kind not in kinds:
        raise MomeError(f"{what} type '{shortened(kind)}' is unknown: choose one of {', '.join(kinds)}")
    known = {field.name: field for field in fields(kinds[kind])}  # type: ignore[arg-type]
    options = {key: value for key, value in values.items() if key != "type"}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its options are {', '.join(known) or 'none'}"
            raise MomeError(f"{what} option '{key}' is unknown for type {kind}: {hint}")
    types = _types(kinds[kind])
    for name, value in options.items():
        if types[name] in _VALUES and not _is_a(types[name], value):
            given = shortened(repr(value))
            raise MomeError(f"{what} option {name} = {given} is not possible: give {_VALUES[types[name]]}")
    for name, field in known.items():
        if name not in options and field.default is MISSING and field.default_factory is MISSING:
            raise MomeError(f"{what} option '{name}' is missing: type {kind} needs it")
    return kinds[kind](**options)


def register(kinds: dict[str, type[Options]], name: str, kind: type[Options]) -> None:
    """Enter a class into a registry under its name.

    A class that is defined again (a notebook's cell, a reloaded module) takes its old place.

    Raises:
        ValueError: another class has this name.
    """
    other = kinds.get(name, kind)
    if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__}: the name '{name}' is taken by "
            f"{other.__module__}.{other.__qualname__}; choose another"
        )
    kinds[name] = kind


def check_whole(name: str, value: Any, most: int = 2**20, least: int = 1) -> None:
    """Raise :class:`MomeError` unless an option is a whole number from ``least`` to ``most``.

    The default of ``most`` is beyond any useful value, and small enough to compute a model's size with.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MomeError(f"{name} = {shortened(repr(value))} is not possible: give a whole number from {least} up")
    if value > most:
        raise MomeError(f"{name} = {shortened(value)} is not possible: give at most {most}")


def check_dropout(value: Any) -> None:
    """Raise :class:`MomeError` unless the option ``dropout`` is a probability below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise MomeError(f"dropout = {shortened(repr(value))} is not possible: give a number from 0 to less than 1")


def _is_a(kind: Any, value: Any) -> bool:
    if kind is float:  # comparing, unlike math.isfinite, takes whole numbers of any length
        return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
