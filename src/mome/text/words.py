"""The words of a transcript: as groups of its tokens, and merged where two transcripts have the same words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product

from mome.text.transcript import Word

# Seconds between the middles of two equal words that are the same one.
_NEAR = 0.5


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


def merged(
    before: Sequence[Word], after: Sequence[Word], start: float, end: float
) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The words of two transcripts without those that both have, as their parts of a recording overlap.

    Words of both are paired in order: those that are equal and within half a second, or lie over each other by half.
    A pair, and a word that only one transcript has, come from ``before`` in the first half of the overlap and from
    ``after`` in the second: words near the end of a part are the least certain.

    Args:
        before, after: the words of each, with times from the start of the recording.
        start, end: the overlap in seconds.
    """
    first = next((k for k, word in enumerate(before) if word.end > start), len(before))
    last = next((k for k, word in enumerate(after) if word.start >= end), len(after))
    tail, head, middle = before[first:], after[:last], (start + end) / 2
    if not tail or not head:
        return tuple(before), tuple(after)
    best = dict.fromkeys(product(range(len(tail) + 1), range(len(head) + 1)), 0)  # of what is left from i and j
    for i, j in product(reversed(range(len(tail))), reversed(range(len(head)))):
        likeness = _likeness(tail[i], head[j])
        best[i, j] = max(best[i + 1, j], best[i, j + 1], best[i + 1, j + 1] + likeness if likeness else 0)
    kept, more, i, j, left = list(before[:first]), list[Word](), 0, 0, True
    while i < len(tail) or j < len(head):
        if j == len(head) or (i < len(tail) and best[i, j] == best[i + 1, j]):
            kept += [tail[i]] if left and _middle(tail[i]) < middle else []
            i += 1
        elif i == len(tail) or best[i, j] == best[i, j + 1]:
            more += [head[j]] if _middle(head[j]) >= middle else []
            j += 1
        else:
            left = left and _middle(tail[i]) + _middle(head[j]) < 2 * middle
            kept, more = ([*kept, tail[i]], []) if left else (kept, [*more, head[j]])
            i, j = i + 1, j + 1
    return tuple(kept), (*more, *after[last:])


def _likeness(one: Word, other: Word) -> int:
    """2 for equal words about the same time, 1 for others that lie over each other by half of the shorter, or 0."""
    if one.word.lower() == other.word.lower() and abs(_middle(one) - _middle(other)) <= _NEAR:
        return 2
    common = min(one.end, other.end) - max(one.start, other.start)
    return int(common > 0 and 2 * common >= min(one.end - one.start, other.end - other.start))


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
