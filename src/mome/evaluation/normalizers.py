"""The forms in which transcripts are compared, by name."""

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
    """The function that puts a transcript into its form for comparison.

    ``lower`` ignores capitals and spaces, as the published audio-visual systems are scored. ``whisper`` is Whisper's
    normaliser of English: it also ignores punctuation, fillers and what is in brackets, and writes numbers,
    contractions and British spellings in one way each. It raises MomeError on numbers of thousands of digits.
    """
    if name == "lower":
        return normalize
    # Importing Transformers takes a second, which scoring in lower case need not wait for.
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    whisper = EnglishTextNormalizer(json.loads(_SPELLINGS.read_text(encoding="utf-8")))

    def normalized(text: str) -> str:
        try:
            return whisper(text)
        except ValueError:  # Python reads and writes no numbers of more than 4300 digits
            raise MomeError(f"'{shortened(text)}' holds a number too long for the normalizer whisper") from None

    return normalized
