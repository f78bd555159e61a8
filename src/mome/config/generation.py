"""Options of decoding that a configuration, a recipe or a caller may give, with their types and ranges.

Transformers' ``generate`` accepts much more, such as the name of a Python file to run. A model folder may come from a
stranger, so its options of decoding are limited to those listed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import GenerationConfig

from mome.errors import MomeError

LONGEST_TRANSCRIPT = 32_768
"""Largest possible number of new tokens."""

PER_SECOND = "max_tokens_per_second"
"""Our own option, which Transformers does not have: most tokens for each second of a clip, besides ``LEAST_TOKENS``.

Speech has limits, and a model that repeats itself without end has none.
"""
LEAST_TOKENS = 8
CTC_WEIGHT = "ctc_weight"
"""Our own option: the share of a model's CTC head in the score of each token, 0 for the language model alone."""

_TOKEN = (0, 2**31 - 1)
_WHOLE: dict[str, tuple[int, int]] = {
    "max_new_tokens": (1, LONGEST_TRANSCRIPT),
    "min_new_tokens": (0, LONGEST_TRANSCRIPT),
    "num_beams": (1, 100),
    "top_k": (0, 1_000_000),
    "no_repeat_ngram_size": (0, 1000),
    "bos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
    "eos_token_id": _TOKEN,
}
_REAL: dict[str, tuple[float, float]] = {
    "temperature": (0.001, 1000.0),
    "top_p": (0.001, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.001, 1.0),
    "repetition_penalty": (0.001, 1000.0),
    "length_penalty": (-1000.0, 1000.0),
    "max_time": (0.001, 86_400.0),
    PER_SECOND: (0.001, 10_000.0),
    CTC_WEIGHT: (0.0, 1.0),
}
_FLAGS = ("do_sample", "use_cache", "renormalize_logits", "early_stopping")
NAMES: tuple[str, ...] = (*_WHOLE, *_REAL, *_FLAGS)
"""Names of all possible options."""

_NEVER = ("custom_generate", "trust_remote_code")
_SETTINGS = "generation_config"
_SAMPLING = ("temperature", "top_p")


def check_decoding(options: Mapping[str, Any], where: str = "generation") -> dict[str, Any]:
    """Check options of decoding and return those that are not None.

    Args:
        options: plain values by name.
        where: what messages call the options.

    Raises:
        MomeError: ``options`` is no mapping, an option is unknown, or its value is of another type or out of range.
    """
    if not isinstance(options, Mapping):
        raise MomeError(f"{where} = {options!r:.80} is not possible: give options by name, such as num_beams: 4")
    given = {name: value for name, value in options.items() if value is not None or name not in NAMES}
    for name, value in given.items():
        if name not in NAMES:
            near = difflib.get_close_matches(str(name), NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(NAMES)}"
            raise MomeError(f"{where}: the option '{name!s:.60}' is not one of decoding: {hint}")
        _check_value(name, value, where)
    least, most = given.get("min_new_tokens", 0), given.get("max_new_tokens", LONGEST_TRANSCRIPT)
    if least > most:
        raise MomeError(f"{where}: min_new_tokens = {least} is more than max_new_tokens = {most}: lower it")
    return given


def check_call(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a call of :meth:`Transcriber.transcribe` and return those that are not None.

    A call may also give a ``generation_config``; its values are checked as the options are.

    Raises:
        MomeError: as :func:`check_decoding`.
    """
    plain = dict(options)
    settings = plain.pop(_SETTINGS, None)
    given = check_decoding(plain)
    if settings is None:
        return given
    if not isinstance(settings, GenerationConfig):
        raise MomeError(f"{_SETTINGS} = {settings!r:.80} is not possible: give a GenerationConfig of Transformers")
    changed = settings.to_diff_dict()
    check_decoding({name: changed[name] for name in changed if name != "transformers_version"}, _SETTINGS)
    return {**given, _SETTINGS: settings}


def refuse_code(options: Mapping[str, Any]) -> None:
    """Refuse options of ``generate`` that run Python code from elsewhere, and check the values of those listed here.

    Other options, such as a streamer, are passed on unchecked.

    Raises:
        MomeError: an option runs code, or a value is not possible.
    """
    for name in _NEVER:
        if options.get(name):
            raise MomeError(f"generation: the option '{name}' runs code from elsewhere and is refused: leave it out")
    check_decoding({name: value for name, value in options.items() if name in NAMES})


def decoding_options(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Options for ``generate``: those given, else the model's own, else no sampling.

    Args:
        given: options of a call. Values that its ``generation_config`` sets count as given, unless the same option
            is given beside it.
        default: the model's own options. Its temperature and top-p apply only if sampling is on.
    """
    settings = {name: getattr(given.get(_SETTINGS), name, None) for name in NAMES}
    asked = _not_none(settings) | _not_none(given)
    own = {"do_sample": False} | _not_none(default)
    if not (own | asked)["do_sample"]:
        own = {name: value for name, value in own.items() if name not in _SAMPLING}
    return own | asked


def _not_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, (int, *kinds)) and not isinstance(value, bool)


def _check_value(name: str, value: Any, where: str) -> None:
    if name in _FLAGS:
        if isinstance(value, bool) or (name == "early_stopping" and value == "never"):
            return
        allowed = "true, false" + ' or "never"' * (name == "early_stopping")
    elif name in _WHOLE:
        low, high = _WHOLE[name]
        values = value if name == "eos_token_id" and isinstance(value, list) and value else [value]
        if all(_is_number(item, np.integer) and low <= item <= high for item in values):
            return
        allowed = f"a whole number from {low} to {high}"
    else:
        least, most = _REAL[name]
        if _is_number(value, float, np.number) and least <= value <= most:
            return
        allowed = f"a number from {least:g} to {most:g}"
    raise MomeError(f"{where}: {name} = {value!r:.60} is not possible: give {allowed}")


def end_tokens(generation: Mapping[str, Any]) -> set[int]:
    """The tokens that end a transcript, or come after its end; an option may be one token or several."""
    given = [generation.get(name) for name in ("eos_token_id", "pad_token_id")]
    return {token for each in given if each is not None for token in ([each] if isinstance(each, int) else each)}
