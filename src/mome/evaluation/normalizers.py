"""Normalizers: the forms in which transcripts are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from mome.errors import MomeError, shortened
from mome.text.transcript import normalize

Normalizer = Literal["lower", "whisper"]

_SPELLINGS = Path(__file__).with_name("spellings.json")


@cache
def normalizer(name: Normalizer) -> Callable[[str], str]:
    """Return the function that converts a text to the form to compare.

    ``lower`` ignores capitals and spaces, as published audio-visual systems are scored. ``whisper`` is Whisper's
    normalizer of English: it also removes punctuation, fillers and text in brackets, and unifies the spelling of
    numbers, contractions and British words. It raises MomeError on numbers of thousands of digits.
    """
    if name == "lower":
        return normalize
    # Imported here: it takes a second, and ``lower`` does not need it.
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    whisper = EnglishTextNormalizer(json.loads(_SPELLINGS.read_text(encoding="utf-8")))

    def normalized(text: str) -> str:
        try:
            form: str = whisper(text)
            return form
        except ValueError:  # Python reads and writes no numbers of more than 4300 digits
            raise MomeError(f"'{shortened(text)}' holds a number too long for the normalizer whisper") from None

    return normalized
