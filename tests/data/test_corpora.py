from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from mome.clip import Excerpt
from mome.data.corpora import (
    LONGEST_PIECE,
    LRS3_VALID,
    auto_avsr_corpus,
    cut_words,
    find_media,
    folder_corpus,
    grid_corpus,
    librispeech_corpus,
    lrs2_corpus,
    lrs3_corpus,
)
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


def annotate(folder: Path, clip: str, text: str, words: str = "") -> None:
    """A clip of LRS with its annotation; in ``words``, ``;`` ends a line of the table."""
    touch(folder, f"{clip}.mp4")
    table = f"\nWORD START END ASDSCORE\n{words.replace(';', chr(10))}\n" if words else ""
    (folder / f"{clip}.txt").write_text(f"Text:  {text}\nConf:  5\nRef:   aBcD\n{table}")


@pytest.fixture
def lrs3(tmp_path: Path) -> Path:
    words = "SO 0.12 0.40 3.1;{LG} 0.50 1.00 0.2;WE'RE 9.00 9.28 4.0;HERE 15.9 16.13 5;NOW 30.00 31.04 1.5"
    annotate(tmp_path, "pretrain/0Abc/00001", "SO {LG} WE'RE HERE NOW", words)
    annotate(tmp_path, "pretrain/0Abc/00002", "NO TABLE")
    annotate(tmp_path, "pretrain/0Abc/00003", "BACKWARDS", "BACK 2.0 1.0 3")
    for number in range(120):
        annotate(tmp_path, f"trainval/talk{number}/50001", "HELLO {NS} AGAIN")
        annotate(tmp_path, f"trainval/talk{number}/50002", "HELLO")
    touch(tmp_path, "trainval/talk0/50003.mp4")  # without annotation
    annotate(tmp_path, "test/xYz/00001", "THE TEST")
    return tmp_path


def test_lrs3(lrs3):
    corpus = lrs3_corpus(lrs3)
    rows = {row.id: row for row in corpus.rows}
    assert len(rows) == 2 + 240 + 1
    # "here" ends 16.01 s after the start of "so": a piece may have 16.
    first, second = rows["pretrain_0Abc_00001_00"], rows["pretrain_0Abc_00001_01"]
    assert (first.text, first.excerpt, first.frames) == ("so we're", Excerpt(0.12, 9.28), 229)
    assert (second.text, second.excerpt, second.split) == ("here now", Excerpt(15.9, 31.04), "train")
    assert rows["test_xYz_00001"] == ManifestRow(
        "test_xYz_00001", lrs3 / "test" / "xYz" / "00001.mp4", "test", "the test"
    )
    assert rows["trainval_talk3_50001"].text == "hello again"
    splits = {f"talk{number}": {rows[f"trainval_talk{number}_5000{k}"].split for k in "12"} for number in range(120)}
    assert all(len(one) == 1 for one in splits.values())  # no talk is in two splits
    assert set.union(*splits.values()) == {"train", "valid"}
    reasons = dict(corpus.failures)
    assert {Path(name).name for name in reasons} == {"00002.mp4", "00003.mp4", "50003.mp4"}
    assert "no table of words" in reasons[str(lrs3 / "pretrain/0Abc/00002.mp4")]
    assert "backwards" in reasons[str(lrs3 / "pretrain/0Abc/00003.mp4")]


def test_what_lacks_its_partner_is_told_in_words(lrs3, tmp_path):
    touch(lrs3, "test/xYz/00002.txt", "test/readme.txt", "lrs3/a.mp4")
    reasons = dict(lrs3_corpus(lrs3).failures)
    assert reasons.pop(str(lrs3 / "test/xYz/00002.txt")) == f"{lrs3}/test/xYz/00002.txt has no .mp4 beside it"
    assert reasons[str(lrs3 / "trainval/talk0/50003.mp4")] == f"{lrs3}/trainval/talk0/50003.txt is not there"
    assert not any("readme" in name for name in reasons)
    (labels := tmp_path / "labels.csv").write_text("lrs3,a.mp4,31,1 2\n")
    assert auto_avsr_corpus(tmp_path, labels).failures == [(f"{labels}:1", f"{tmp_path}/lrs3/a.txt is not there")]


def test_lrs3_with_sound_beside_the_video(lrs3):
    before = lrs3_corpus(lrs3)
    touch(lrs3, "test/xYz/00001.wav", "trainval/talk3/50001.WAV")
    assert lrs3_corpus(lrs3) == before


def test_lrs3_with_a_list_of_validation_clips(lrs3):
    chosen = lrs3 / "valid.id"
    chosen.write_text("trainval/talk7/50002\ntrainval/gone/50001\ntrainval/talk0/50003\n")
    corpus = lrs3_corpus(lrs3, chosen)
    assert [row.id for row in corpus.rows if row.split == "valid"] == ["trainval_talk7_50002"]
    reasons = dict(corpus.failures)
    assert "no such clip" in reasons.pop("trainval/gone/50001")
    assert {Path(name).name for name in reasons} == {"00002.mp4", "00003.mp4", "50003.mp4"}
    chosen.write_text("talk7_50002\n")
    with pytest.raises(MomeError, match="names no clip"):
        lrs3_corpus(lrs3, chosen)
    with pytest.raises(MomeError, match="pretrain, trainval and test"):
        lrs3_corpus(lrs3 / "test")


def test_lrs3_keeps_the_usual_clips_for_validation(lrs3):
    usual = LRS3_VALID.read_text().split()
    assert len(set(usual)) == len(usual) == 1200
    assert {len(clip) for clip in usual} == {len("trainval/0123456789a/50001")}
    for clip in usual[:2]:
        annotate(lrs3, clip, "HELLO")
    corpus = lrs3_corpus(lrs3)
    assert [row.id for row in corpus.rows if row.split == "valid"] == [clip.replace("/", "_") for clip in usual[:2]]
    assert len(corpus.failures) == 3  # the 1198 that are not there are no failures
    (mine := lrs3 / "valid.id").write_text("trainval/talk7/50002\n")
    assert [row.id for row in lrs3_corpus(lrs3, mine).rows if row.split == "valid"] == ["trainval_talk7_50002"]


def test_pieces_are_as_long_as_they_may_be_and_lose_no_word():
    words = [(f"w{number}", 0.7 * number, 0.7 * number + 0.6) for number in range(100)]
    pieces = cut_words(words)
    assert [word for piece in pieces for word in piece] == words
    for piece, after in pairwise(pieces):
        assert piece[-1][2] - piece[0][1] <= LONGEST_PIECE < after[0][2] - piece[0][1]
    with pytest.raises(MomeError, match="longer than 16 s"):
        cut_words([("loong", 1.0, 18.0)])


@pytest.mark.parametrize("lists", [".", "mvlrs_v1"])
def test_lrs2(tmp_path, lists):
    base = tmp_path / "mvlrs_v1"
    annotate(base, "main/5535/00001", "FOR EVERYONE")
    annotate(base, "main/5535/00002", "VALIDATE")
    annotate(base, "main/5535/00003", "TESTED")
    annotate(base, "main/5535/00004", "IN NO LIST")
    annotate(base, "pretrain/5536/00001", "LONG AGO", "LONG 0.5 0.9 1;AGO 17.0 17.5 1")
    names = {"train": "5535/00001", "val": "5535/00002", "test": "5535/00003 NF", "pretrain": "5536/00001\n5536/9"}
    for name, line in names.items():
        (tmp_path / lists / f"{name}.txt").write_text(f"{line}\n")
    corpus = lrs2_corpus(tmp_path)
    assert [(row.id, row.split, row.text, row.excerpt.start) for row in corpus.rows] == [
        ("pretrain_5536_00001_00", "train", "long", 0.5),
        ("pretrain_5536_00001_01", "train", "ago", 17.0),
        ("main_5535_00001", "train", "for everyone", None),
        ("main_5535_00002", "valid", "validate", None),
        ("main_5535_00003", "test", "tested", None),
    ]
    assert [Path(name).name for name, _ in corpus.failures] == ["9.mp4"]
    assert lrs2_corpus(base).rows == corpus.rows
    with pytest.raises(MomeError, match="mvlrs_v1"):
        lrs2_corpus(base / "main" / "5535")


def test_clips_that_are_listed_twice(tmp_path):
    annotate(tmp_path, "main/5535/00001", "FOR EVERYONE")
    (tmp_path / "train.txt").write_text("5535/00001\n5535/00001\n")
    (tmp_path / "val.txt").write_text("5535/00001\n")
    corpus = lrs2_corpus(tmp_path)
    assert [(row.id, row.split) for row in corpus.rows] == [("main_5535_00001", "train")]
    ((name, reason),) = corpus.failures  # that of val, as the second line of train says nothing else
    assert (Path(name).name, "second clip main_5535_00001" in reason) == ("00001.mp4", True)

    touch(tmp_path, "lrs3/a.mp4")
    labels = tmp_path / "labels.csv"
    labels.write_text("lrs3,a.mp4,31,1,ONE\nlrs3,a.mp4,31,1,ONE\nlrs3,a.mp4,31,1,TWO\n")
    corpus = auto_avsr_corpus(tmp_path, labels)
    assert ([row.text for row in corpus.rows], len(corpus.failures)) == (["one"], 1)

    touch(tmp_path / "grid", "s1/bbaf2n.mpg", "s1/bbaf2n.wav")
    corpus = grid_corpus(tmp_path / "grid")
    assert [row.path.name for row in corpus.rows] == ["bbaf2n.mpg"]
    assert [Path(name).name for name, _ in corpus.failures] == ["bbaf2n.wav"]


def test_auto_avsr(tmp_path):
    for name in ("a", "b", "c"):
        touch(tmp_path, f"lrs3/lrs3_video_seg24s/test/x/{name}.mp4")
    touch(tmp_path, "lrs3/lrs3_video_seg24s/test/x/a.wav")
    (texts := tmp_path / "lrs3" / "lrs3_text_seg24s" / "test" / "x").mkdir(parents=True)
    (texts / "a.txt").write_text("HELLO THERE\n")
    labels = tmp_path / "labels.csv"
    film = "lrs3_video_seg24s/test/x"
    labels.write_text(
        f"lrs3,{film}/a.mp4,31,12 7\nlrs3,{film}/b.mp4,40,12 7,YES, INDEED\n"
        f"lrs3,{film}/c.mp4,40,1 2\nlrs3,{film}/gone.mp4,40,1 2\nnonsense\n"
    )
    corpus = auto_avsr_corpus(tmp_path, labels, "test")
    first, second = corpus.rows
    assert (first.id, first.text, first.frames, first.split) == (
        *("lrs3_lrs3_video_seg24s_test_x_a", "hello there", 31, "test"),
    )
    assert first.excerpt == Excerpt(sound=first.path.with_suffix(".wav"))
    assert (second.text, second.excerpt) == ("yes, indeed", Excerpt())
    assert [name.rsplit(":")[-1] for name, _ in corpus.failures] == ["3", "4", "5"]


def test_librispeech(tmp_path):
    for split, chapter in (("train-clean-100", "19-198"), ("train-other-500", "20-5"), ("test-other", "21-7")):
        speaker, book = chapter.split("-")
        folder = touch(tmp_path / split / speaker / book, f"{chapter}-0000.flac", f"{chapter}-0001.flac")
        lines = f"{chapter}-0000 NORTHANGER ABBEY\n{chapter}-0001 IT'S\n"
        (folder / f"{chapter}.trans.txt").write_text(lines + (f"{chapter}-0002 GONE\n" if speaker == "21" else ""))
    corpus = librispeech_corpus(tmp_path)
    assert [(row.id, row.split, row.text) for row in corpus.rows[:3]] == [
        ("21-7-0000", "test-other", "northanger abbey"),
        ("21-7-0001", "test-other", "it's"),
        ("19-198-0000", "train", "northanger abbey"),
    ]
    assert [row.split for row in corpus.rows[2:]] == ["train"] * 4
    assert [Path(name).name for name, _ in corpus.failures] == ["21-7-0002.flac"]
    with pytest.raises(MomeError, match="dev-clean"):
        librispeech_corpus(tmp_path / "test-other")
