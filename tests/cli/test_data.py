from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mome.data.corpora import sentence_split
from mome.data.manifests import read_manifest
from mome.data.prepare import encode_mouth
from mome.media import load_clip


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Three talkers, who share some sentences, and a file that is none of GRID's."""
    folder = tmp_path / "grid"
    sentences = [f"bb{preposition}{letter}{digit}n" for preposition in "abiw" for letter in "fghk" for digit in "z12"]
    for talker, step in (("s1", 1), ("s2", 2), ("s3", 3)):
        (folder / talker).mkdir(parents=True)
        for name in sentences[::step]:
            (folder / talker / f"{name}.mpg").touch()
    (folder / "s1" / "calibration.mpg").touch()
    return folder


def test_synthesize(run, refused, tmp_path):
    pytest.importorskip("espeakng_loader")
    out = tmp_path / "clip.mp4"
    assert run("data", "synthesize", "Bin blue at F 2 now.", "-o", out, "--seed", "3").exit_code == 0
    first = load_clip(out)
    run("data", "synthesize", "bin blue at f two now", "-o", out, "--seed", "3")
    again = load_clip(out)
    # What is encoded is the same to the bit (tested with the synthesizer); FFmpeg's encoders are not quite.
    assert again.mouth.shape == first.mouth.shape
    assert np.abs(again.mouth.astype(int) - first.mouth).mean() < 3
    assert np.abs(again.audio - first.audio).mean() < 1e-3
    assert "en-gb" in run("data", "synthesize", "--voices").stdout.splitlines()
    assert "'blu'" in refused("data", "synthesize", "bin blu at f two now", "-o", tmp_path / "other.mp4")
    assert "voice" in refused("data", "synthesize", "bin blue at f two now", "-o", out, "--voice", "en-uss")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_synthesize_a_corpus(run, refused, tmp_path):
    pytest.importorskip("espeakng_loader")
    done = run("data", "synthesize", "--count", "11", "-o", tmp_path / "clips", "--seed", "3")
    assert (done.exit_code, done.stdout) == (0, "")
    manifest = tmp_path / "clips" / "manifest.csv"
    assert done.stderr == f"wrote {manifest}\n"
    rows = read_manifest(manifest)
    assert [row.split for row in rows] == [*["train"] * 8, "valid", "test", "train"]
    assert len({row.text for row in rows}) == 11
    assert all(load_clip(row.path).seconds >= 2 for row in rows[::5])
    assert len(list((tmp_path / "clips").iterdir())) == 12
    for words in (("bin blue at f two now", "-o", tmp_path / "more"), ()):
        assert "mome data synthesize --count 24 -o FOLDER" in refused("data", "synthesize", "--count", "2", *words)
    assert "voice" in refused("data", "synthesize", "--count", "2", "-o", tmp_path / "more", "--voice", "en-uss")


def test_synthesize_without_what_it_needs(refused, tmp_path):
    assert "sentence" in refused("data", "synthesize", "-o", tmp_path / "clip.mp4")
    assert "sentence" in refused("data", "synthesize", "bin blue at f two now")
    missing = tmp_path / "missing" / "clip.mp4"
    assert "missing" in refused("data", "synthesize", "bin blue at f two now", "-o", missing)


def test_folder(run, tmp_path):
    clips = tmp_path / "clips"
    (clips / "more").mkdir(parents=True)
    for name in ("a.mp4", "b.WAV", "c.mp4", "more/a.mp4"):
        (clips / name).touch()
    (clips / "a.txt").write_text("Hello,\n  world\n")
    (clips / "b.txt").write_text("\n")
    (clips / "more" / "a.txt").write_text("and again")
    out = tmp_path / "clips.csv"
    result = run("data", "folder", clips, "-o", out, "--split", "train")
    assert result.exit_code == 0
    assert "left out 2 files" in result.stderr
    assert "2 clips (train 2)" in result.stderr
    rows = read_manifest(out)
    assert [(row.id, row.split, row.text) for row in rows] == [
        ("a", "train", "Hello, world"),
        ("more_a", "train", "and again"),
    ]
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert [row.path for row in read_manifest(moved / "clips.csv")] == [
        moved / "clips" / "a.mp4",
        moved / "clips" / "more" / "a.mp4",
    ]


def texts(manifest: Path) -> dict[str, str]:
    return {row.id: row.text for row in read_manifest(manifest)}


def test_folder_reads_the_annotations_of_lrs(run, tmp_path):
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "00001.mp4").touch()
    (tmp_path / "talk" / "00001.txt").write_text("Text:  BIN BLUE {NS} AT\nConf:  5\n\nWORD START END\nBIN 0.5 0.8\n")
    assert run("data", "folder", tmp_path, "-o", tmp_path / "out.csv").exit_code == 0
    assert texts(tmp_path / "out.csv") == {"talk_00001": "bin blue at"}


def test_folder_passes_over_hidden_files(run, tmp_path):
    clips = tmp_path / ".clips"  # the folder that is named may be hidden itself
    for folder in (clips, clips / ".cache", clips / "b" / ".c"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("clip.mp4", "._clip.mp4"):
            (folder / name).touch()
            (folder / name).with_suffix(".txt").write_bytes(b"\x00\x05\x16\x07" if name[0] == "." else b"hello")
    result = run("data", "folder", clips, "-o", tmp_path / "out.csv")
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert texts(tmp_path / "out.csv") == {"clip": "hello"}


def test_folder_lists_what_it_cannot_read_and_goes_on(run, tmp_path, monkeypatch):
    contents = {"a": b"hello", "b": b"\x00\x01", "c": b'{"text": "hello"}', "e": b"world", "f": b"hello"}
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "d.mp4").touch()
    (tmp_path / "d.txt").mkdir()
    read = Path.open

    def damaged(path: Path, *arguments, **options):
        if path.name == "e.txt":
            raise ZeroDivisionError("whatever it may be")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", damaged)
    result = run("data", "folder", tmp_path, "-o", tmp_path / "out.csv")
    monkeypatch.undo()
    assert result.exit_code == 1
    assert texts(tmp_path / "out.csv") == {"a": "hello", "f": "hello"}
    _, summary, *lines = result.stderr.splitlines()
    assert summary == "4 of 6 files could not be listed:"
    hints = ("b.txt is not text", "c.txt looks like JSON", "d.txt", "ZeroDivisionError: whatever")
    for line, hint in zip(lines, hints, strict=True):
        assert hint in line


def test_folder_of_nothing_readable(refused, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.txt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n")
    line = refused("data", "folder", tmp_path, "-o", tmp_path / "out.csv")
    assert "a.txt looks like subtitles" in line
    assert not (tmp_path / "out.csv").exists()


def test_names_that_no_manifest_can_hold_are_listed(run, tmp_path):
    names = [b"a.mp4", b"\xff.mp4", b"two\nlines.mp4"]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.touch()
        path.with_suffix(".txt").write_text("hello")
    result = run("data", "folder", tmp_path, "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "2 of 3 files" in result.stderr
    assert texts(tmp_path / "out.csv") == {"a": "hello"}


def test_folder_mistakes(refused, tmp_path):
    out = tmp_path / "out.csv"
    assert "is not a folder" in refused("data", "folder", tmp_path / "missing", "-o", out)
    assert "no video or audio" in refused("data", "folder", tmp_path, "-o", out)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("hello")
    assert "both be clip a" in refused("data", "folder", tmp_path, "-o", out)
    assert "missing" in refused("data", "folder", tmp_path, "-o", tmp_path / "missing" / "out.csv")
    assert not out.exists()


def test_grid_has_no_sentence_in_two_splits(run, grid, tmp_path):
    out = tmp_path / "grid.csv"
    options = ["--valid", "0.2", "--test", "0.3", "--seed", "1"]
    result = run("data", "grid", grid, "-o", out, *options)
    assert result.exit_code == 0
    assert "calibration.mpg" in result.stderr
    rows = read_manifest(out)
    assert len(rows) == 48 + 24 + 16
    assert rows[0].id == "s1_bbaf1n"
    assert rows[0].text == "bin blue at f one now"
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.text, set()).add(row.split)
    assert {len(found) for found in splits.values()} == {1}
    assert {split for found in splits.values() for split in found} == {"train", "valid", "test"}
    first = out.read_bytes()
    run("data", "grid", grid, "-o", out, *options)
    assert out.read_bytes() == first
    run("data", "grid", grid, "-o", out, *options[:-1], "2")
    assert out.read_bytes() != first


def test_grid_by_talker(run, refused, grid, tmp_path):
    out = tmp_path / "grid.csv"
    assert run("data", "grid", grid, "-o", out, "--test-talker", "s2").exit_code == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].split("/")[1] for row in rows if row["split"] == "test"} == {"s2"}
    assert all(row["split"] == "test" for row in rows if row["path"].startswith("grid/s2/"))
    assert "s9" in refused("data", "grid", grid, "-o", out, "--test-talker", "s9")
    assert "more than all" in refused("data", "grid", grid, "-o", out, "--valid", "0.6", "--test", "0.6")


def test_parts_are_about_as_large_as_asked_for():
    sentences = [f"sentence {number}" for number in range(2000)]
    found = [sentence_split(sentence, 0.1, 0.2, seed=0) for sentence in sentences]
    assert abs(found.count("test") / 2000 - 0.2) < 0.03
    assert abs(found.count("valid") / 2000 - 0.1) < 0.03


def test_one_odd_clip_spoils_itself_alone(run, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("good.mp4", "CAP.MP4", "kept.mp4"):
        (folder / name).touch()
    for name in ("good.txt", "CAP.TXT", "kept.txt", "we ird\n.txt"):
        (folder / name).write_text("hello")
    (folder / "we ird\n.mp4").symlink_to(folder / "kept.mp4")
    done = run("data", "folder", folder, "-o", tmp_path / "m.csv")
    assert done.exit_code == 1
    with (tmp_path / "m.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["CAP", "good", "kept"]
    assert "control character" in done.stderr


@pytest.mark.parametrize("split", ["  ", "a\nb"])
def test_a_split_that_no_manifest_can_have(refused, tmp_path, split):
    assert "--split" in refused("data", "folder", tmp_path, "-o", tmp_path / "m.csv", "--split", split)


def test_importers_list_what_is_bad_and_go_on(run, tmp_path):
    root, out = tmp_path / "lrs3", tmp_path / "lrs3.csv"
    for name, text in (("a", "Text: HELLO {NS} THERE\nConf: 3\n"), ("b", "Conf: 3\n")):
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "00001.mp4").touch()
        (root / "test" / name / "00001.txt").write_text(text)
    (root / "pretrain" / "c").mkdir(parents=True)
    (root / "pretrain" / "c" / "00001.mp4").touch()
    (root / "pretrain" / "c" / "00001.txt").write_text("Text: NOW\n\nWORD START END ASDSCORE\nNOW 1.5 2.25 3\n")
    result = run("data", "lrs3", root, "-o", out)
    assert (result.exit_code, "1 of 3 files" in result.stderr) == (1, True)
    with (tmp_path / "lrs3.failures.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [str(root / "test" / "b" / "00001.mp4")]
    assert out.read_text().splitlines() == [
        "id,path,split,text,start,end,frames",
        "pretrain_c_00001_00,lrs3/pretrain/c/00001.mp4,train,now,1.5,2.25,18",
        "test_a_00001,lrs3/test/a/00001.mp4,test,hello there,,,",
    ]
    assert [row.excerpt.end for row in read_manifest(out)] == [2.25, None]
    (tmp_path / "failures.csv").write_text("of mome data prepare")
    assert run("data", "folder", root / "test" / "a", "-o", tmp_path / "other.csv").exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*failures.csv")) == ["failures.csv", "lrs3.failures.csv"]
    (root / "test" / "b" / "00001.txt").write_text("Text: MENDED\n")
    assert run("data", "lrs3", root, "-o", out).exit_code == 0
    assert not (tmp_path / "lrs3.failures.csv").exists()


def test_lrs3_overwrites_no_list(refused, tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "val.id").write_text("trainval/a/00001\n")
    line = refused("data", "lrs3", tmp_path, "-o", tmp_path / "val.id", "--valid-ids", tmp_path / "val.id")
    assert "would be overwritten" in line


def test_a_piece_without_length_stops_no_other(run, tmp_path):
    folder, out = tmp_path / "lrs3" / "pretrain" / "c", tmp_path / "lrs3.csv"
    folder.mkdir(parents=True)
    for name, words in (("00001", "OH 0.1 0.1004"), ("00002", "OH 0.1 0.1\nNO 0.3 0.5"), ("00003", "OH 0 0\nNO 20 21")):
        (folder / f"{name}.mp4").touch()
        (folder / f"{name}.txt").write_text(f"Text: OH\n\nWORD START END\n{words}\n")
    result = run("data", "lrs3", tmp_path / "lrs3", "-o", out)
    assert result.exit_code == 1
    assert texts(out) == {"pretrain_c_00002_00": "oh no", "pretrain_c_00003_01": "no"}
    for clip in ("00001.mp4, clip pretrain_c_00001_00", "00003.mp4, clip pretrain_c_00003_00"):
        assert f"{clip}: the part ends" in result.stderr


def test_prepare(run, refused, tmp_path):
    film, manifest, out = tmp_path / "a.mp4", tmp_path / "clips.csv", tmp_path / "out"
    film.write_bytes(encode_mouth(np.full((10, 96, 96), 90, np.uint8)))
    manifest.write_text("id,path,split,text,start\na,a.mp4,test,hello,0.2\nb,gone.mp4,test,gone,\n")
    result = run("data", "prepare", manifest, "--out", out)
    assert result.exit_code == 1
    assert "1 clips in 1 tar files" in result.stderr
    assert "1 of 2 clips could not be prepared" in result.stderr
    assert "gone.mp4" in (out / "failures.csv").read_text()
    assert [(row.text, row.frames) for row in read_manifest(out / "manifest.csv", "test")] == [("hello", 5)]
    assert run("data", "prepare", manifest, "--out", tmp_path / "two", "--shard", "2/2").exit_code == 0
    assert list((tmp_path / "two").iterdir()) == []
    for wrong in ("0/2", "3/2", "2", "1/0"):
        assert "--shard" in refused("data", "prepare", manifest, "--out", out, "--shard", wrong)
    assert "is a file" in refused("data", "prepare", manifest, "--out", manifest)


def test_prepare_overwrites_no_manifest_of_another_kind(run, refused, tmp_path):
    out = tmp_path / "same"
    out.mkdir()
    (tmp_path / "a.mp4").write_bytes(encode_mouth(np.full((10, 96, 96), 90, np.uint8)))
    own, other = out / "manifest.csv", tmp_path / "clips.csv"
    own.write_text("id,path,split,text\na,../a.mp4,test,hello\n")
    other.write_text("id,path,split,text\na,a.mp4,test,hello\n")
    before = own.read_bytes()
    assert "would be overwritten" in refused("data", "prepare", own, "--out", tmp_path / "x" / ".." / "same")
    assert "no manifest of prepared clips" in refused("data", "prepare", other, "--out", out)
    assert (own.read_bytes(), list(out.iterdir())) == (before, [own])
    own.unlink()
    for _ in range(2):  # its own manifest does not stop it
        assert run("data", "prepare", other, "--out", out).exit_code == 0
    assert "would be overwritten" in refused("data", "prepare", own, "--out", out)


def test_a_manifest_replaces_nothing_but_a_manifest(run, refused, grid, tmp_path):
    out = tmp_path / "train.txt"
    out.write_text("6330311066473698535/00011\n")  # such as a list of the corpus itself
    assert "is no manifest, and would be overwritten" in refused("data", "grid", grid, "-o", out)
    assert out.read_text() == "6330311066473698535/00011\n"
    out.write_text("")
    for _ in range(2):  # an empty file, and a manifest
        assert run("data", "grid", grid, "-o", out).exit_code == 0
    assert read_manifest(out, missing_files=True)
