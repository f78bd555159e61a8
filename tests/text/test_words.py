from __future__ import annotations

from collections.abc import Sequence

import pytest

from mome.text.words import word_tokens


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
