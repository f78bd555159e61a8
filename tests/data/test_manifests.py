from __future__ import annotations

import os
import pickle
import re
import sys
import tracemalloc
from pathlib import Path

import pytest

from mome.clip import Excerpt
from mome.data.manifests import ManifestRow, read_manifest, read_references, write_manifest
from mome.errors import MomeError

GOOD = """id,path,split,frames,text
a,media/a.mp4,train,75,bin blue
b,media/b.mp4,test,75,"lay red, now"
c,media/c.mp4,train,75, place green
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in "abc":
        (tmp_path / "media" / f"{name}.mp4").touch()
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_of_all_splits_and_of_one(folder):
    path = write(folder, GOOD)
    rows = read_manifest(path)
    assert rows[1] == ManifestRow("b", folder / "media" / "b.mp4", "test", "lay red, now", frames=75)
    assert rows[2].text == "place green"
    assert [row.id for row in read_manifest(str(path), "train")] == ["a", "c"]


def test_paths_may_be_absolute(folder):
    path = write(folder, f"text,split,path,id\nhello,test,{folder / 'media' / 'a.mp4'},x\n")
    assert read_manifest(path) == [ManifestRow("x", folder / "media" / "a.mp4", "test", "hello")]


def test_spreadsheet_files(folder):
    path = write(folder, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(read_manifest(path)) == 3


def test_only_the_chosen_split_needs_its_media(folder):
    path = write(folder, GOOD)
    (folder / "media" / "b.mp4").unlink()
    assert len(read_manifest(path, "train")) == 2
    with pytest.raises(MomeError, match=r"b\.mp4 of clip b is not there$"):
        read_manifest(path, "test")
    (folder / "media" / "a.mp4").unlink()
    with pytest.raises(MomeError, match=r"a\.mp4 of clip a is not there, and 1 more of 3"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty: give a manifest", "id, path, split, text"]),
        ("id,path,split,text\n", ["header only"]),
        ("id,path,split\na,media/a.mp4,train\n", ["lacks the column text", "id, path, split"]),
        (
            "ID,file,split,txt\n",
            ["columns id, path, text", "ID, file, split, txt", "is 'txt' meant as text?"],
        ),
        ("id;path;split;text\n", ["id;path;split;text", "split at commas"]),
        (GOOD + "a,media/a.mp4,test,75,again\n", ["id 'a'", "line 2", "line 5"]),
        (GOOD + "d,media/a.mp4,test,75, \n", ["line 5", "text is empty"]),
        (GOOD + "d,media/a.mp4\n", ["line 5 has 2 fields, the header has 5"]),
        (GOOD + ",media/a.mp4,test,75,x\n", ["line 5", "id is empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\xff", ["not a CSV file"]),
        (GOOD + 'd,media/a.mp4,test,75,"open\n', ["not a CSV file"]),
    ],
)
def test_faults_are_named(folder, text, parts):
    path = write(folder, text)
    with pytest.raises(MomeError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for part in parts:
        assert part in message


def test_a_file_of_another_kind_is_not_quoted(folder):
    for text in ("root:x:0:0:root:/root:/bin/bash\n", "hunter2\n", "API_KEY=hunter2,root\n"):
        with pytest.raises(MomeError, match="its first line is no header") as caught:
            read_manifest(write(folder, text))
        assert "hunter2" not in str(caught.value)
        assert "root" not in str(caught.value).removeprefix(str(folder))


def test_unknown_split_names_those_that_exist(folder):
    with pytest.raises(MomeError, match=re.escape("no split 'tset': its splits are train, test")):
        read_manifest(write(folder, GOOD), "tset")


def test_missing_file_and_folder(folder):
    with pytest.raises(MomeError, match="does not exist"):
        read_manifest(folder / "other.csv")
    with pytest.raises(MomeError, match="is a folder"):
        read_manifest(folder)


def test_the_shared_data(shared):
    rows = read_manifest(shared / "grid" / "manifest.csv")
    assert {row.split for row in rows} >= {"train"}
    assert all(row.path.is_file() for row in rows)


@pytest.mark.parametrize("path", ["p" * 300, "p/" * 3000, "a\0b", "~/a.mp4", ".", "pipe"])
def test_paths_that_no_media_file_has(folder, path):
    os.mkfifo(folder / "pipe")
    with pytest.raises(MomeError, match=r"manifest\.csv: media file"):
        read_manifest(write(folder, f"id,path,split,text\na,{path},test,hello\n"))


def test_clips_of_another_split_may_have_no_text_yet(folder):
    path = folder / "untranscribed.csv"
    path.write_text("id,path,split,text\none,one.mp4,train,bin blue\ntwo,two.mp4,untranscribed,\n")
    (folder / "one.mp4").touch()
    assert [row.text for row in read_manifest(path, "train")] == ["bin blue"]
    for split in ("untranscribed", None):
        with pytest.raises(MomeError, match="line 3: the text is empty"):
            read_manifest(path, split)


def test_an_empty_text_is_for_evaluation_alone(folder):
    path = write(folder, "id,path,split,text\na,media/a.mp4,test,\n")
    assert [row.text for row in read_manifest(path, silence=True)] == [""]
    with pytest.raises(MomeError, match="text is empty"):
        read_manifest(path)


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "clips").mkdir()
    clips = [tmp_path / "clips" / name for name in ("a, b.mp4", "c.mp4")]
    for clip in clips:
        clip.touch()
    rows = [ManifestRow(f"id{number}", clip, "test", 'said "so", he') for number, clip in enumerate(clips)]
    out = tmp_path / "manifest.csv"
    assert write_manifest(out, rows) == (rows, [])
    assert "clips/c.mp4" in out.read_text(encoding="utf-8").splitlines()[2]
    assert read_manifest(out) == rows
    assert read_references(out) == ({"id0": 'said "so", he', "id1": 'said "so", he'}, {"id0", "id1"})


def test_what_cannot_stand_in_a_manifest_is_told(tmp_path):
    good, odd = (ManifestRow(name, tmp_path / f"{name}.mp4", "test", "so") for name in ("good", "odd\n"))
    out = tmp_path / "manifest.csv"
    rows, failures = write_manifest(out, [odd, good])
    assert rows == [good]
    assert [name for name, _ in failures] == [str(odd.path)]
    assert "control character" in failures[0][1]
    out.unlink()
    assert write_manifest(out, [odd])[0] == []
    assert not out.exists()
    with pytest.raises(MomeError, match="would both be clip good: rename one of them"):
        write_manifest(out, [good, good])
    assert not out.exists()


def test_part_and_sound_of_a_clip_are_read_and_written(folder):
    rows = [
        ManifestRow("a", folder / "media" / "a.mp4", "x", "hello", Excerpt(0.12, 12345.678), 30),
        ManifestRow("b", folder / "media" / "b.mp4", "x", "hello", Excerpt(sound=folder / "media" / "c.mp4")),
        ManifestRow("c", folder / "media" / "c.mp4", "x", "hello"),
    ]
    path = folder / "out.csv"
    write_manifest(path, rows, {"sha256": {"b": "12ab"}})
    assert path.read_text().splitlines() == [
        "id,path,split,text,audio,start,end,frames,sha256",
        "a,media/a.mp4,x,hello,,0.12,12345.678,30,",
        "b,media/b.mp4,x,hello,media/c.mp4,,,,12ab",
        "c,media/c.mp4,x,hello,,,,,",
    ]
    assert read_manifest(path) == rows
    (folder / "media" / "c.mp4").unlink()
    with pytest.raises(MomeError, match=r"media/c\.mp4 of clip b is not there, and 1 more"):
        read_manifest(path)
    assert read_manifest(path, missing_files=True) == rows


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [("start", "x", "start is 'x'"), ("end", "-1", "end is '-1'"), ("end", "0", "before it starts")]
    + [("frames", value, "frames is") for value in ("1.5", "0", "nan", "inf")],
)
def test_numbers_that_are_not_possible(folder, column, value, hint):
    path = write(folder, f"id,path,split,text,{column}\na,media/a.mp4,x,hello,{value}\n")
    with pytest.raises(MomeError, match=f"line 2.*{hint}"):
        read_manifest(path)


def test_a_row_takes_little_more_memory_than_its_texts(tmp_path):
    count, said = 2000, "and this is about as much as somebody says in four seconds of a talk"
    lines = [
        f"clip_{n:06d},a.tar/clip_{n:06d}.mp4,train,{said} {n},a.tar/clip_{n:06d}.flac,{n % 300 + 1}"
        for n in range(count)
    ]
    file = write(tmp_path, "\n".join(["id,path,split,text,audio,frames", *lines]))
    read_manifest(file, missing_files=True)  # imports and caches
    tracemalloc.start()
    rows = read_manifest(file, missing_files=True)
    assert all(row.path.suffix == ".mp4" and row.excerpt.sound.suffix == ".flac" for row in rows)
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    # But for Python's table of all interned strings, whose time to grow may have come.
    held = sum(trace.size for trace in traces if trace.size < 2**18)
    texts = sum(
        sys.getsizeof(text) for row in rows for text in (row.id, str(row.path), row.text, str(row.excerpt.sound))
    )
    assert texts < held < texts + 300 * count


def test_rows_are_values(tmp_path):
    own = ("a", tmp_path / "a.mp4", "train", "bin blue", Excerpt(1, 2, tmp_path / "a.wav"), 25)
    row = ManifestRow(*own)
    assert (row.id, row.path, row.split, row.text, row.excerpt, row.frames) == own
    assert (row.excerpt.start, row.excerpt.end, row.excerpt.sound) == (1, 2, tmp_path / "a.wav")
    assert pickle.loads(pickle.dumps(row)) == row == ManifestRow(*own)
    assert len({row, ManifestRow(*own), ManifestRow("b", *own[1:])}) == 2
    with pytest.raises(AttributeError):
        row.id = "b"
