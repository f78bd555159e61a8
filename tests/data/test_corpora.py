from __future__ import annotations

import os
from pathlib import Path

import pytest

from mome.data.corpora import find_media, folder_corpus, grid_corpus
from mome.data.manifests import ManifestRow
from mome.errors import MomeError

root = getattr(os, "geteuid", lambda: 1)() == 0


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_media_is_found_in_the_order_of_its_names(tmp_path):
    touch(tmp_path, "b.MP4", "a/z.wav", "a/.hidden.wav", ".git/c.mp4", "notes.txt", "a.flac")
    assert find_media(tmp_path) == ([tmp_path / "a" / "z.wav", tmp_path / "a.flac", tmp_path / "b.MP4"], [])
    with pytest.raises(MomeError, match="is not a folder"):
        find_media(tmp_path / "b.MP4")
    with pytest.raises(MomeError, match="no video or audio files"):
        find_media(touch(tmp_path / "empty", "notes.txt"))


@pytest.mark.skipif(root, reason="root can read every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    closed = touch(tmp_path, "a.mp4", "closed/b.mp4") / "closed"
    closed.chmod(0)
    try:
        found, failures = find_media(tmp_path)
    finally:
        closed.chmod(0o700)
    assert found == [tmp_path / "a.mp4"]
    assert [name for name, _ in failures] == [str(closed)]


def test_a_folder_with_transcripts(tmp_path):
    touch(tmp_path, "a.mp4", "more/b.wav", "c.mp4", "d.mp4")
    (tmp_path / "a.txt").write_text("Hello")
    (tmp_path / "more" / "b.TXT").write_text("world")
    (tmp_path / "d.txt").write_bytes(b"\x00\x01")
    corpus = folder_corpus(tmp_path, "dev")
    assert corpus.rows == [
        ManifestRow("a", tmp_path / "a.mp4", "dev", "Hello"),
        ManifestRow("more_b", tmp_path / "more" / "b.wav", "dev", "world"),
    ]
    assert corpus.left_out == [tmp_path / "c.mp4"]
    assert [name for name, _ in corpus.failures] == [str(tmp_path / "d.mp4")]


def test_grid_by_sentence_and_by_talker(tmp_path):
    sentences = [f"bba{letter}{digit}n" for letter in "fghkmp" for digit in "z123456789"]
    touch(tmp_path, *[f"{talker}/{name}.mpg" for talker in ("s1", "s2") for name in sentences], "s1/test.mpg")
    corpus = grid_corpus(tmp_path, valid=0.2, test=0.3, seed=1)
    assert corpus.left_out == [tmp_path / "s1" / "test.mpg"]
    splits = {row.text: row.split for row in corpus.rows}
    assert len(splits) == len(sentences)
    assert all(row.split == splits[row.text] for row in corpus.rows), "both talkers' clips are in the same split"
    assert set(splits.values()) == {"train", "valid", "test"}
    assert corpus.rows[0].id == "s1_bbaf1n"

    unseen = grid_corpus(tmp_path, valid=0.2, test=0.3, test_talkers=["s2"], seed=1)
    assert {row.path.parent.name for row in unseen.rows if row.split == "test"} == {"s2"}
    assert {row.split for row in unseen.rows if row.path.parent.name == "s1"} == {"train", "valid"}
    with pytest.raises(MomeError, match="no talker folder s9"):
        grid_corpus(tmp_path, test_talkers=["s2", "s9"])
