"""The GRID corpus: sentences of six words, one from each slot, and the codes in its file names."""

from __future__ import annotations

import difflib
import string

import numpy as np

from mome.errors import MomeError

SLOT_NAMES: tuple[str, ...] = ("command", "colour", "preposition", "letter", "digit", "adverb")
SLOTS: tuple[tuple[str, ...], ...] = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple(letter for letter in string.ascii_lowercase if letter != "w"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)
"""The words of the six slots, in the order they are spoken."""

_EXAMPLE = "bin blue at f two now"
_DIGIT_CODES = dict(zip("z123456789", SLOTS[4], strict=True))
_CODES: tuple[dict[str, str], ...] = tuple(
    _DIGIT_CODES if name == "digit" else {word[0]: word for word in words}
    for name, words in zip(SLOT_NAMES, SLOTS, strict=True)
)
_DIGITS = {str(value): word for value, word in enumerate(SLOTS[4])}


def check_sentence(text: str) -> str:
    """Check that ``text`` is a GRID sentence, and return it in lower case with single spaces.

    Punctuation around words is dropped, and the digit may be a figure. Raises :class:`MomeError`, which names the
    first wrong word, its slot and the words allowed there.
    """
    words = [word.strip(".,;:!?\"'") for word in text.lower().split()]
    words = [word for word in words if word]
    checked = []
    for word, name, allowed in zip(words, SLOT_NAMES, SLOTS, strict=False):
        if name == "digit":
            word = _DIGITS.get(word, word)
        if word not in allowed:
            raise MomeError(_wrong_word(text, word, name, allowed))
        checked.append(word)
    if len(words) < len(SLOTS):
        missing = len(words)
        raise MomeError(
            f"sentence '{text}' lacks its {SLOT_NAMES[missing]} (word {missing + 1} of {len(SLOTS)}): "
            f"one of {', '.join(SLOTS[missing])}, as in '{_EXAMPLE}'"
        )
    if len(words) > len(SLOTS):
        raise MomeError(
            f"sentence '{text}' has {len(words)} words, a GRID sentence has {len(SLOTS)}: "
            f"leave out '{' '.join(words[len(SLOTS) :])}', as in '{_EXAMPLE}'"
        )
    return " ".join(checked)


def random_sentence(rng: np.random.Generator) -> str:
    """Draw a sentence; all words of a slot are equally likely."""
    return " ".join(words[int(rng.integers(len(words)))] for words in SLOTS)


def decode_name(name: str) -> str:
    """Return the sentence that a GRID file name stands for: ``"bbaf2n"`` is ``"bin blue at f two now"``.

    The name has one character per word: its first letter, or a figure for the digit, with ``z`` for zero. Raises
    :class:`MomeError` if ``name`` is not such a code.
    """
    code = name.lower()
    if len(code) != len(SLOTS):
        raise MomeError(f"'{name}' is not a GRID file name: it has {len(code)} characters, not {len(SLOTS)}")
    words = []
    for position, (character, slot, codes) in enumerate(zip(code, SLOT_NAMES, _CODES, strict=True), start=1):
        if character not in codes:
            raise MomeError(
                f"'{name}' is not a GRID file name: character {position} ('{character}') "
                f"is no {slot}, which is one of {' '.join(codes)}"
            )
        words.append(codes[character])
    return " ".join(words)


def _wrong_word(text: str, word: str, name: str, allowed: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"'{word}' in '{text}' is not a GRID {name}: {hint}One of {', '.join(allowed)}"
