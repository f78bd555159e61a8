"""The form in which transcripts are compared."""

from __future__ import annotations


def normalize(text: str) -> str:
    """Lower case with single spaces and none at the ends, as the published systems are scored.

    Punctuation stays: the published references have none, and the recognisers learn to write none.
    """
    return " ".join(text.lower().split())
