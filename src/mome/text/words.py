"""The words of a transcript as groups of its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def word_tokens(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, list[int]]]:
    """Each word of a transcript, as spaces separate them, with the indices of the tokens that write it.

    A token that writes parts of two words belongs to both; one that writes nothing by itself, such as a part of a
    letter's bytes, belongs to the word that goes on or begins after it; one that ends the text belongs to none.

    Args:
        ids: the tokens.
        decode: gives the text of tokens; nothing for an end token.
    """
    text = decode(ids)
    spans, begin = [], 0
    for count in range(1, len(ids) + 1):
        part = decode(ids[:count])  # ends with a replacement where a letter is not yet complete
        end = max(begin, next((at for at in range(len(part)) if part[at : at + 1] != text[at : at + 1]), len(part)))
        first = len(text) - len(text[begin:].lstrip())
        spans.append((first, max(end, first + 1)))
        begin = end
    words = []
    for word in re.finditer(r"\S+", text):
        first, last = word.span()
        words.append((word.group(), [k for k, (begin, end) in enumerate(spans) if begin < last and end > first]))
    return words
