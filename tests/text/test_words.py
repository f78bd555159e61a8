from __future__ import annotations

from collections.abc import Sequence

import pytest

from mome.text.transcript import Word
from mome.text.words import merged, word_tokens


def pieces(*texts: str):
    """A tokenizer whose token k writes the k-th text."""
    return range(len(texts)), lambda ids: "".join(texts[k] for k in ids)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((" bin", " bl", "ue", ""), [("bin", [0]), ("blue", [1, 2])]),
        (("bin", " ", "blue", "."), [("bin", [0]), ("blue.", [1, 2, 3])]),
        (("bin blue", " at"), [("bin", [0]), ("blue", [0]), ("at", [1])]),
        (("don", "'", "t"), [("don't", [0, 1, 2])]),
        (("", " a", "", "  b\n", ""), [("a", [0, 1]), ("b", [2, 3])]),
        ((), []),
        (("", " "), []),
    ],
)
def test_tokens_of_words(tokens, words):
    assert word_tokens(*pieces(*tokens)) == words


def test_tokens_of_a_letters_bytes_belong_to_its_word():
    data = [b"ol", "é".encode()[:1], "é".encode()[1:], b" ", "日".encode()[:1], "日".encode()[1:], b"x", b" end"]

    def decode(ids: Sequence[int]) -> str:
        return b"".join(data[k] for k in ids).decode(errors="replace")

    assert word_tokens(range(8), decode) == [("olé", [0, 1, 2]), ("日x", [3, 4, 5, 6]), ("end", [7])]


def timed(*words: tuple[float, float, str]) -> tuple[Word, ...]:
    return tuple(Word(start, end, word, 0.5) for start, end, word in words)


@pytest.mark.parametrize(
    ("before", "after", "kept", "more"),
    [
        # Nothing in common.
        ([(8.0, 8.5, "a"), (8.5, 8.9, "b")], [(10.1, 10.4, "c")], "a b", "c"),
        ([(8.0, 8.5, "a")], [(9.2, 9.4, "b")], "a", "b"),
        ([(9.2, 9.4, "a")], [(10.0, 10.4, "b")], "a", "b"),
        # The same words in all of the overlap, in some of it, at its middle with times that differ.
        ([(8.5, 8.9, "a"), (9.1, 9.3, "b"), (9.6, 9.9, "c")], [(9.1, 9.3, "b"), (9.6, 9.9, "c")], "a b", "c"),
        ([(9.1, 9.3, "b"), (9.6, 9.9, "c")], [(9.7, 9.9, "c"), (10.2, 10.4, "d")], "b", "c d"),
        ([(9.3, 9.5, "b")], [(9.5, 9.8, "b"), (10.2, 10.4, "d")], "", "b d"),
        ([(9.5, 9.8, "b")], [(9.1, 9.3, "b"), (10.2, 10.4, "d")], "b", "d"),
        ([(8.7, 9.1, "Two")], [(9.0, 9.2, "two"), (9.3, 9.5, "b")], "Two", ""),
        # The same word twice, both times in both.
        ([(9.1, 9.3, "b"), (9.6, 9.8, "b")], [(9.1, 9.3, "b"), (9.6, 9.8, "b")], "b", "b"),
        # Words that cannot both be said: before the middle and after it, whatever the other has.
        ([(9.0, 9.4, "pin")], [(9.0, 9.4, "bin"), (10.0, 10.3, "c")], "pin", "c"),
        ([(9.6, 9.9, "pin")], [(9.6, 9.9, "bin"), (10.0, 10.3, "c")], "", "bin c"),
        ([(9.3, 9.6, "pin")], [(9.4, 9.7, "bin")], "", "bin"),
        ([(9.2, 9.4, "pin")], [(9.4, 9.5, "b"), (9.5, 9.9, "bin")], "pin", "bin"),
        # A pair goes by its equal word, not by the one that lies over it.
        ([(9.35, 9.5, "at"), (9.5, 9.7, "f")], [(9.4, 9.7, "f")], "at", "f"),
        # Words that only one of them has.
        ([(9.0, 9.2, "a"), (9.7, 9.9, "b")], [(9.3, 9.45, "x"), (10.0, 10.2, "c")], "a", "c"),
        ([], [(9.3, 9.4, "b")], "", "b"),
        ([(9.8, 9.9, "b")], [], "b", ""),
        ([], [], "", ""),
    ],
)
def test_words_of_an_overlap_are_merged_by_their_times(before, after, kept, more):
    first, second = timed(*before), timed(*after)
    found = merged(first, second, 9.0, 10.0)
    assert tuple(" ".join(word.word for word in words) for words in found) == (kept, more)
    assert set(found[0]) <= set(first)
    assert set(found[1]) <= set(second)
