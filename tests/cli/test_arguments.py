"""Paths and numbers that no command can use, for every argument and option: one line each, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mome.cli.demo import SHIPPED

CLIP = str(SHIPPED / "clip.mp4")
MANIFEST = f"id,path,split,text\none,{CLIP},test,bin blue\n"
SENTENCE = "bin blue at f two now"

# Every place for a path; @ is the path, and m.csv a manifest that is there.
READ = [
    ["transcribe", "@"],
    ["transcribe", CLIP, "--model", "@"],
    ["transcribe", CLIP, "--noise", "@", "--snr", "0"],
    ["demo", "@"],
    ["demo", "--model", "@"],
    ["evaluate", "--data", "@"],
    ["evaluate", "--data", "m.csv", "--model", "@"],
    ["evaluate", "--data", "m.csv", "--noise", "@", "--snr", "0"],
    ["score", "@", "--data", "m.csv"],
    ["score", "m.csv", "--data", "@"],
    ["train", "@"],
    ["inspect", "@"],
    ["convert", "av-hubert", "@", "new"],
    ["convert", "llama-avsr", "@", "new", "--language-model", "x"],
    ["data", "folder", "@", "-o", "new.csv"],
    ["data", "grid", "@", "-o", "new.csv"],
    ["analyze", "experts", "@", "--data", "m.csv"],
    ["analyze", "experts", "mome-tiny", "--data", "@"],
    ["analyze", "similarity", "@", "--data", "m.csv"],
    ["analyze", "attention", "mome-tiny", "@", "--data", "m.csv"],
    ["analyze", "top-k", "@", "--data", "m.csv"],
    ["analyze", "top-k", "mome-tiny", "--data", "@"],
    ["analyze", "noise", "mome-tiny", "--data", "m.csv", "--noise", "@"],
    ["sweep", "@"],
    ["report", "@"],
]
WRITTEN = [
    ["transcribe", CLIP, "--output-dir", "@"],
    ["evaluate", "--data", "m.csv", "--out", "@"],
    ["evaluate", "--data", "m.csv", "--transcripts", "@"],
    ["evaluate", "--data", "m.csv", "--cache", "@"],
    ["score", "m.csv", "--data", "m.csv", "--out", "@"],
    ["convert", "av-hubert", "m.csv", "@"],
    ["data", "folder", "dir", "-o", "@"],
    ["data", "grid", "dir", "-o", "@"],
    ["data", "synthesize", SENTENCE, "-o", "@"],
    ["analyze", "experts", "mome-tiny", "--data", "m.csv", "--out", "@"],
    ["analyze", "top-k", "mome-tiny", "--data", "m.csv", "--out", "@"],
    ["report", "dir", "--out", "@"],
]
UNREADABLE = [
    "",
    "a" * 300,
    "/".join(["a" * 200] * 30),
    "pipe",
    "/dev/zero",
    "missing/file",
    "m.csv/file",
    "loop",
    os.fsdecode(b"\xff.csv"),
]
UNWRITABLE = ["", f"{'a' * 300}.mp4", "/".join(["a" * 200] * 30), "pipe", "/dev/full", "m.csv/file", "loop"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a manifest, a folder, a pipe that nobody writes to, and a link to itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("m.csv").write_text(MANIFEST)
    Path("dir").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    return tmp_path


def there(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def name(command: list[str]) -> str:
    return "-".join(part for part in command if part[:1] not in "/").replace(" ", "")


@pytest.mark.parametrize("path", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("command", READ, ids=name)
def test_what_cannot_be_read(refused, folder, command, path):
    before = there(folder)
    line = refused(*[path if part == "@" else part for part in command])
    assert len(line) < 1500
    assert there(folder) == before


@pytest.mark.parametrize("path", UNWRITABLE, ids=range(len(UNWRITABLE)))
@pytest.mark.parametrize("command", WRITTEN, ids=name)
def test_what_cannot_be_written(refused, folder, command, path):
    before = there(folder)
    assert len(refused(*[path if part == "@" else part for part in command])) < 1500
    assert there(folder) == before


NUMBERS = [
    ["transcribe", CLIP, "--noise", CLIP, "--snr", "@"],
    ["transcribe", CLIP, "--seed", "@"],
    ["transcribe", CLIP, "--beams", "@"],
    ["transcribe", CLIP, "--rates", "@"],
    ["demo", "--snr", "@"],
    ["demo", "--seed", "@"],
    ["evaluate", "--data", "m.csv", "--noise", CLIP, "--snr", "@"],
    ["evaluate", "--data", "m.csv", "--limit", "@"],
    ["evaluate", "--data", "m.csv", "--batch", "@"],
    ["score", "m.csv", "--data", "m.csv", "--seed", "@"],
    ["inspect", "--seconds", "@"],
    ["inspect", "--new-tokens", "@"],
    ["inspect", "--beams", "@"],
    ["convert", "llama-smop", "m.csv", "new", "--language-model", "x", "--top-k", "@"],
    ["convert", "llama-avsr", "m.csv", "new", "--language-model", "x", "--lora-scale", "@"],
    ["convert", "llama-avsr", "m.csv", "new", "--language-model", "x", "--audio-rates", "@"],
    ["data", "grid", "dir", "-o", "new.csv", "--valid", "@"],
    ["analyze", "experts", "mome-tiny", "--data", "m.csv", "--seed", "@"],
    ["analyze", "similarity", "mome-tiny", "--data", "m.csv", "--layer", "@"],
    ["analyze", "top-k", "mome-tiny", "--data", "m.csv", "--top-k", "@"],
    ["sweep", "m.yaml", "--jobs", "@"],
    ["transcribe", CLIP, "--top-k", "@"],
    ["evaluate", "--data", "m.csv", "--top-k", "@"],
    ["data", "synthesize", SENTENCE, "-o", "new.mp4", "--seed", "@"],
]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "9" * 5000, "1e", ""])
@pytest.mark.parametrize("command", NUMBERS, ids=name)
def test_numbers_that_are_none(refused, command, number):
    assert len(refused(*[number if part == "@" else part for part in command])) < 1500


def test_a_result_does_not_take_the_place_of_its_sources(refused, run, folder):
    for options in (["--out", "m.csv"], ["--out", "dir/../m.csv"]):
        assert "given twice" in refused("score", "m.csv", "--data", "m.csv", *options)
    both = ["--out", "new.json", "--transcripts", "new.json"]
    assert "given twice" in refused("evaluate", "--data", "m.csv", *both)
    assert Path("m.csv").read_text() == MANIFEST


def test_one_bad_file_of_many_is_its_own_failure(run, folder, tiny_model):
    bad = ["a" * 300, "pipe", "/dev/zero", "loop"]
    result = run("transcribe", "--model", tiny_model, "--rates", "16,-", *bad, CLIP, "--json")
    assert result.exit_code == 1
    assert '"text"' in result.stdout
    assert "4 of 5 files" in result.stderr


@pytest.mark.slow
def test_a_name_that_is_not_text_is_printed_all_the_same(tmp_path):
    code = "from mome.cli import main; main()"
    path = os.fsencode(tmp_path) + b"/\xff\n\x1b[2J.mp4"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code, "transcribe", path, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr
    (failure,) = json.loads(done.stdout)["failures"]
    assert os.fsencode(failure["file"]) == path


def test_a_folder_that_is_a_file(refused):
    assert "--cache m.csv is a file" in refused("evaluate", "--data", "m.csv", "--cache", "m.csv")
    assert "--output-dir m.csv is a file" in refused("transcribe", CLIP, "--output-dir", "m.csv")
