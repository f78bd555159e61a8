from __future__ import annotations

import os

import pytest

from mome.data.tables import read_rows
from mome.errors import MomeError


@pytest.fixture
def rows(tmp_path):
    def read(content: str | bytes) -> list[tuple[int, dict[str, str]]]:
        path = tmp_path / "clips.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_rows(path, ("id", "text")))

    return read


def test_fields_are_stripped_and_have_their_lines(rows):
    assert rows('\ufeffid, text\r\na, one \r\n\r\nb,"two,\nthree"\r\n') == [
        (2, {"id": "a", "text": "one"}),
        (5, {"id": "b", "text": "two,\nthree"}),
    ]
    assert rows("id,text,,\na,one,1,2\n")[0][1]["id"] == "a"  # spreadsheets leave columns without a name


def test_the_transcript_of_a_day(rows):
    text = "word " * 200_000
    assert rows(f"id,text\na,{text}\n") == [(2, {"id": "a", "text": text.strip()})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\ufeff", "is empty"),
        ("id,text\n", "header only"),
        ("id,text,text\na,one,two\n", "column text twice"),
        ("id,text,rates,rates\na,one,4,5\n", "column rates twice"),
        ("id\ttext\na\tone\n", "lacks the columns id, text"),
        ("id;text\na;one\n", "lacks the columns id, text"),
        ("ID,TEXT\na,one\n", "lacks the columns"),
        ('id,text\na,"one\n', "unexpected end"),
        (f"id,text\na,{'x' * 11_000_000}\n", "field limit"),
        ("x" * 11_000_000, "field limit"),
        ("id,text\na,one\n".encode("utf-16"), "UTF-8"),
        (b"id,text\na,\xed\xa0\x80\n", "UTF-8"),
        ("id,text\na,one,two\n", "line 2 has 3 fields"),
    ],
)
def test_what_is_no_table_of_ours(rows, content, reason):
    with pytest.raises(MomeError, match=reason) as caught:
        rows(content)
    assert "clips.csv" in str(caught.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, tmp_path / "pipe.csv", tmp_path / f"{'a' * 300}.csv", tmp_path / "missing.csv"):
        with pytest.raises(MomeError, match=path.name):
            next(read_rows(path, ("id",)))
