"""Types and ranges of a configuration's options; a ``config.json`` from elsewhere may hold any value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Literal, get_args

from mome.connectors.pooling import CompressionMethod
from mome.encoders import AudioContext
from mome.errors import MomeError
from mome.rates import TASKS

Compatibility = Literal["official"]
Rounding = Literal["bfloat16", "float16"]
BACKBONES = ("audio_encoder", "video_encoder", "language_model")

MOST_TOKENS = 1000  # of a prompt, or of the start
_MOST_RATES, _COARSEST = 64, 1000
_LONGEST_NAME = 4096  # of a path on Linux


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_line(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_reference(value: Any) -> bool:
    return value is None or (_is_line(value) and 0 < len(value) <= _LONGEST_NAME)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_factor(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < inf


def _is_whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str | None) and value in choices


def _is_list(fits: Callable[[Any], bool], most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) <= most and all(map(fits, value))


def _is_mapping(fits: Callable[[Any], bool] = lambda value: True) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, Mapping) and all(map(fits, value.values())))


def _is_pair(value: Any) -> bool:
    return value is None or (_TOKENS(value) and len(value) in (0, 2))


_TOKENS = _is_list(_is_whole(0, 2**31 - 1), MOST_TOKENS)
_CHECKS: list[tuple[tuple[str, ...], Callable[[Any], bool], str]] = [
    ((*BACKBONES, *(f"{part}_revision" for part in BACKBONES)), _is_reference, "a folder, a hub id or null"),
    (("only",), _is_line, "a text or null"),
    (("description",), _is_line, "one line of text, or null"),
    (
        ("audio_rates", "video_rates"),
        _is_list(_is_whole(1, _COARSEST), _MOST_RATES),
        f"a list of at most {_MOST_RATES} whole numbers from 1 to {_COARSEST}",
    ),
    (("tasks",), _is_list(_is_one_of(*TASKS), len(TASKS)), f"a list of {', '.join(TASKS)}"),
    (("unfrozen",), _is_list(_is_text, len(BACKBONES)), f"a list of {', '.join(BACKBONES)}"),
    (("audio_context",), _is_one_of(*get_args(AudioContext)), "window, clip or clip+silence"),
    (("compression",), _is_one_of(*get_args(CompressionMethod)), "average, stack or segments"),
    (("projector_hidden",), _is_whole(1, 2**20), "a whole number from 1 to 1048576"),
    (("added_tokens",), _is_whole(0, 2**16), "a whole number from 0 to 65536"),
    (("projector_norm", "video_statistics"), _is_flag, "true or false"),
    (("balance_weight", "decorrelation_weight"), _is_factor, "a number from 0 up"),
    (("connector", "adapter", "video_adapter", "ctc", "generation"), _is_mapping(), "options by name, or null"),
    (("segment_seconds",), lambda value: value is None or (_is_factor(value) and value > 0), "seconds, or null"),
    (("prompts",), _is_mapping(_is_text), "a text for each task"),
    (("prompt_ids",), _is_mapping(_TOKENS), f"a list of at most {MOST_TOKENS} token ids for each task"),
    (("start_ids",), _TOKENS, f"a list of at most {MOST_TOKENS} token ids"),
    (("audio_markers", "video_markers"), _is_pair, "two token ids, or null"),
]
_OPTIONS = {name: (fits, allowed) for names, fits, allowed in _CHECKS for name in names}


def check_option(name: str, value: Any, prefix: str = "") -> None:
    """Check the type and range of one option.

    Args:
        name: of the option.
        value: of any type.
        prefix: precedes the name in messages, such as ``model.``.

    Raises:
        MomeError: the value is of another type or out of range.
    """
    fits, allowed = _OPTIONS[name]
    if not fits(value):
        raise MomeError(f"{prefix}{name}={value!r:.80} is not possible: give {allowed}")


def check_fields(config: Any) -> None:
    """Check the types and ranges of a configuration's options, except those that are checked elsewhere.

    Raises:
        MomeError: names the first option of another type or out of range.
    """
    for name in _OPTIONS:
        check_option(name, getattr(config, name))
