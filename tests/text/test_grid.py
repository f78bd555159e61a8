from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mome.errors import MomeError
from mome.text.grid import SLOTS, check_sentence, decode_name, random_sentence

MANIFEST = Path(__file__).parents[3] / "shared" / "grid" / "manifest.csv"


def test_slots_are_the_grammar():
    assert [len(words) for words in SLOTS] == [4, 4, 4, 25, 10, 4]
    assert "w" not in SLOTS[3]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("bin blue at f two now", "bin blue at f two now"),
        ("  Bin BLUE  at F two\tnow. ", "bin blue at f two now"),
        ("place red with a 9 soon", "place red with a nine soon"),
    ],
)
def test_check_sentence_normalises(text, clean):
    assert check_sentence(text) == clean


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bin blu at f two now", ["'blu'", "colour", "did you mean 'blue'", "green"]),
        ("bin blue at w two now", ["'w'", "letter"]),
        ("bin blue at f twelve now", ["'twelve'", "digit", "zero"]),
        ("bin blue at f two", ["lacks its adverb", "again"]),
        ("", ["lacks its command"]),
        ("bin blue at f two now please", ["7 words", "leave out 'please'"]),
    ],
)
def test_check_sentence_names_the_mistake(text, parts):
    with pytest.raises(MomeError) as caught:
        check_sentence(text)
    for part in parts:
        assert part in str(caught.value)


def test_random_sentences_are_valid_and_cover_the_grammar():
    rng = np.random.default_rng(0)
    sentences = [random_sentence(rng) for _ in range(400)]
    assert all(check_sentence(sentence) == sentence for sentence in sentences)
    drawn = {word for sentence in sentences for word in sentence.split()}
    assert drawn == {word for words in SLOTS for word in words}
    assert random_sentence(np.random.default_rng(7)) == random_sentence(np.random.default_rng(7))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bbaf2n", "bin blue at f two now"),
        ("swwzzs", "set white with z zero soon"),
        ("LGIA9P", "lay green in a nine please"),
        ("prbo1a", "place red by o one again"),
    ],
)
def test_decode_name(name, text):
    assert decode_name(name) == text


@pytest.mark.parametrize("name", ["", "bbaf2", "bbaf2nn", "xbaf2n", "bbaw2n", "bbaf0n", "bbaf2x", "video1"])
def test_decode_name_refuses_other_names(name):
    with pytest.raises(MomeError, match="not a GRID file name"):
        decode_name(name)


def test_decode_name_agrees_with_the_manifest():
    if not MANIFEST.is_file():
        pytest.skip(f"the GRID manifest is not at {MANIFEST}")
    with MANIFEST.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert decode_name(Path(row["path"]).stem) == check_sentence(row["text"]) == row["text"]
