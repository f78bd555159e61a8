"""``mome transcribe`` from folders, patterns, pipes and addresses, to lines of JSON and trees of files."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mome.cli import transcribe as module
from mome.cli.inputs import find_inputs
from mome.cli.output import FilesProgress
from mome.decoding import Transcriber
from mome.decoding.recordings import Recordings
from tests.media.builders import write
from tests.media.server import Handler

LISTEN = ("--rates", "16,-")


@pytest.fixture
def transcribe(run, tiny_model):
    return lambda *arguments: run("transcribe", "--model", tiny_model, *LISTEN, *arguments)


@pytest.fixture
def tree(clips, tmp_path) -> Path:
    """talks/: b.wav, day/a.wav, day/deep/c.MKV, and what is no recording."""
    folder = tmp_path / "talks"
    (folder / "day" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.wav", "day/a.wav", ".hidden/d.wav", "day/._a.wav"):
        shutil.copyfile(clips / "talk.wav", folder / name)
    shutil.copyfile(clips / "talk.mkv", folder / "day/deep/c.MKV")
    (folder / "notes.txt").write_text("no recording")
    return folder


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def named(result) -> list[str]:
    """The file of each line of text."""
    return [line.split("\t")[0] for line in result.stdout.splitlines()]


def test_a_folder_is_its_recordings_in_order(transcribe, tree):
    result = transcribe(tree)
    assert result.exit_code == 0, result.output
    assert named(result) == [str(tree / name) for name in ("b.wav", "day/a.wav", "day/deep/c.MKV")]
    assert named(transcribe(tree / "day" / "deep")) == [str(tree / "day/deep/c.MKV")]  # one, and yet a folder


def test_a_folder_without_recordings_does_not_stop_the_others(transcribe, refused, tree, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    result = transcribe(tmp_path / "empty", tree / "day")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines()[-1] == f"mome: {tmp_path / 'empty'} has no video or audio files in it"
    line = refused("transcribe", "--model", tiny_model, tmp_path / "empty")
    assert line == f"mome: {tmp_path / 'empty'} has no video or audio files in it"


def test_a_pattern_that_the_shell_left(transcribe, tree, tmp_path, monkeypatch):
    assert named(transcribe(tree / "**" / "[ab].wav")) == [str(tree / "b.wav"), str(tree / "day/a.wav")]
    monkeypatch.chdir(tmp_path)
    result = transcribe("talks/*/a.*", "talks/x*")
    assert (result.exit_code, named(result)) == (1, ["talks/day/a.wav"])
    assert "talks/x* matches no file" in result.stderr
    assert transcribe("talks/x*", "-f", "srt").stderr == "mome: talks/x* matches no file: check the pattern\n"
    transcribe("talks/**/*.wav", "-o", "texts")
    assert written(tmp_path / "texts") == ["b.txt", "day/a.txt"]
    shutil.copyfile(tree / "b.wav", "[b].wav")  # a file of such a name is no pattern
    assert [one.source for one in find_inputs([Path("[b].wav")])[0]] == [Path("[b].wav")]


def test_the_tree_of_a_folder_is_kept(transcribe, tree, tmp_path):
    result = transcribe(tree, "-o", tmp_path / "out", "-f", "json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert written(tmp_path / "out") == ["b.json", "day/a.json", "day/deep/c.json"]
    document = json.loads((tmp_path / "out/day/a.json").read_text("utf-8"))
    assert (document["file"], document["rates"]) == (str(tree / "day/a.wav"), "16,-")


def test_two_files_of_one_name_are_refused_before_any_work(refused, tree, tmp_path):
    shutil.copyfile(tree / "b.wav", tree / "b.flac")
    line = refused("transcribe", "--model", "missing", tree, "-o", tmp_path / "out")
    assert line.endswith(f"would both be written to {tmp_path / 'out/b.txt'}: rename one of them")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_skipped(transcribe, refused, tree, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "--output-dir" in refused("transcribe", tree, "--skip-existing")
    transcribe(tree, "-o", out, "-f", "all")
    (out / "day/a.srt").unlink()
    (out / "b.txt").write_text("by hand")
    result = transcribe(tree, "-o", out, "-f", "all", "--skip-existing")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == f"2 of 3 clips have their files in {out} already: left out"
    assert result.stderr.count("wrote ") == 5
    assert (out / "day/a.srt").is_file()
    assert (out / "b.txt").read_text() == "by hand"
    two = ("--rates", "-,2", "-o", out, "--skip-existing")
    assert transcribe(tree / "day/deep", *two).stderr.count("wrote ") == 2  # of two rates, in files of their own
    failed = transcribe(tree / "day/deep", tmp_path / "x*", *two)
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 2)
    monkeypatch.setattr(module, "load_model", None)  # is not needed
    assert transcribe(tree / "day/deep", *two).exit_code == 0
    assert transcribe(tree, "-o", out, "--skip-existing").stderr.startswith("3 of 3 clips")


def test_standard_input(transcribe, clips, tmp_path, monkeypatch):
    class Pipe(io.BytesIO):
        name = "<stdin>"

    def piped(content: bytes, *arguments: object, terminal: bool = False):
        stdin = SimpleNamespace(buffer=Pipe(content), isatty=lambda: terminal)
        monkeypatch.setattr("mome.cli.inputs.sys", SimpleNamespace(stdin=stdin))
        return transcribe("-", *arguments)

    content = (clips / "talk.wav").read_bytes()
    expected = transcribe(clips / "talk.wav").stdout
    assert piped(content).stdout == expected
    (one,) = json.loads(piped(content, "--json").stdout)["results"]
    assert one["file"] == "<stdin>"
    piped(content, "-o", tmp_path)
    assert written(tmp_path) == ["stdin.txt"]
    failed = piped(b"words")
    assert failed.exit_code == 2
    assert failed.stderr.startswith("mome: <stdin> cannot be opened as audio or video")
    failed = piped(content, terminal=True)
    assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)
    assert "<stdin> is a terminal" in failed.stderr


def test_addresses(transcribe, clips, web, tmp_path):
    Handler.files["/a/talk.wav"] = (clips / "talk.wav").read_bytes()
    Handler.files["/page"] = b"<html>"
    pages = [f"{web}/a/talk.wav?key=1", f"{web}/missing.wav", f"{web}/page", "ftp://nowhere/a.wav"]
    result = transcribe(*pages)
    assert (result.exit_code, named(result)) == (1, [pages[0]])
    lines = result.stderr.splitlines()
    assert lines[-4] == "3 of 4 files could not be transcribed:"
    assert lines[-3].startswith(f"mome: {pages[1]} cannot be downloaded (HTTP Error 404: Not Found)")
    assert lines[-2].startswith(f"mome: {pages[2]} cannot be opened as audio or video")
    assert lines[-1].startswith("mome: ftp://nowhere/a.wav cannot be read: give an http or https address")
    transcribe(pages[0], f"{web}/..%2f..%2fup.wav", f"{web}/", "-o", tmp_path)
    assert written(tmp_path) == ["talk.txt"]


def test_places_of_addresses_are_names_of_files():
    found, _ = find_inputs(["http://h/a/b.c.mp4?x=/y.z", "http://h/..%2f..", "http://h/%00%0a/", "https://host:80"])
    assert [str(one.place) for one in found] == ["b.c", "recording", "__", "host_80"]


def test_lines_of_json(transcribe, refused, clips, tmp_path):
    batch = [clips / "talk.wav", clips / "text.mp4", tmp_path / "x*.wav", clips / "talk.mkv"]
    result = transcribe(*batch, "--jsonl", "--rates", "4,-")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(batch[k]) for k in (2, 0, 0, 1, 3, 3)]
    assert [sorted(line) == ["error", "file"] for line in lines] == [True, False, False, True, False, False]
    assert [line["rates"] for line in lines if "rates" in line] == ["16,-", "4,-"] * 2
    assert transcribe(clips / "talk.wav", "-f", "jsonl").stdout.count("\n") == 1
    assert "--jsonl" in refused("transcribe", "a.wav", "--json", "--jsonl")
    assert "--output-dir" in refused("transcribe", "a.wav", "--jsonl", "-o", tmp_path)


@pytest.mark.parametrize(
    ("options", "printed", "files"),
    [
        ([], ["a.wav"], []),
        (["--jsonl"], ["x*", "a.wav"], []),
        (["--json"], ["a.wav"], []),
        (["-o", "out"], [], ["a.txt"]),
        (["-o", "out", "-f", "json"], [], ["a.json"]),
        (["-o", "out", "-f", "all"], [], ["a.json", "a.srt", "a.tsv", "a.txt", "a.vtt"]),
    ],
)
def test_what_is_done_when_interrupted_is_kept(transcribe, clips, tmp_path, monkeypatch, options, printed, files):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav", "c.wav"):
        shutil.copyfile(clips / "talk.wav", name)
    load = Transcriber.load_clip

    def interrupted(self, path, *arguments, **more):
        if path.name == "b.wav":
            raise KeyboardInterrupt
        return load(self, path, *arguments, **more)

    monkeypatch.setattr(Transcriber, "load_clip", interrupted)
    result = transcribe("x*", "a.wav", "b.wav", "c.wav", *options)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2:] == ["mome: x* matches no file: check the pattern", "mome: interrupted"]
    if options == ["--json"]:
        found = [one["file"] for one in json.loads(result.stdout)["results"]]
    elif options == ["--jsonl"]:
        found = [json.loads(line)["file"] for line in result.stdout.splitlines()]
    else:
        found = named(result)
    assert found == printed
    out = tmp_path / "out"
    assert (sorted(path.name for path in out.iterdir()) if files else out.exists()) == (files or False)


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ([], []),
        (["-f", "srt"], []),
        (["--json"], []),
        (["--jsonl"], []),
        (["-o", "out"], ["a.interrupted.txt"]),
        (["-o", "out", "-f", "srt", "--skip-existing"], ["a.interrupted.srt"]),
    ],
)
def test_the_part_of_a_recording_before_an_interruption_is_kept(
    transcribe, clips, tmp_path, monkeypatch, options, files
):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(clips / "talk.wav", "a.wav")
    rows = Recordings.rows

    def interrupted(self, *arguments):
        yield next(rows(self, *arguments))
        raise KeyboardInterrupt

    whole = transcribe("a.wav", *options)
    shutil.rmtree("out", ignore_errors=True)
    monkeypatch.setattr(Recordings, "rows", interrupted)
    result = transcribe("a.wav", *options)
    assert (whole.exit_code, result.exit_code) == (0, 130)
    assert "warning: a.wav: interrupted after 1 of 1 s, the rest is missing" in result.stderr.splitlines()
    if "--json" in options or "--jsonl" in options:
        document = json.loads(result.stdout)
        (one,) = document.get("results", [document])
        assert one["segments"]
        assert "interrupted" in one["warnings"][-1]
    else:
        assert result.stdout == whole.stdout
    assert (written(Path("out")) if files else []) == files


def test_devices(transcribe, refused, clips, tiny_model):
    assert transcribe(clips / "talk.wav", "--device", "cpu").exit_code == 0
    assert "choose auto, cpu, cuda" in refused("transcribe", "a.wav", "--model", "missing", "--device", "cuda:")
    line = refused("transcribe", clips / "talk.wav", "--model", tiny_model, "--device", "cuda:99")
    assert line.startswith("mome: there is no device cuda:99: choose from cpu")


def test_without_a_detector_the_sound_is_transcribed(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("MOME_FACE_DETECTOR", str(tmp_path / "none.onnx"))
    wave = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    film = write(tmp_path / "film.mkv", [np.zeros((120, 160), np.uint8)] * 25, wave=wave)
    result = run("transcribe", "--model", tiny_model, film, "--json")
    assert result.exit_code == 0
    (one,) = json.loads(result.stdout)["results"]
    assert one["rates"] == "4,-"
    assert f"warning: {film}: MOME_FACE_DETECTOR names {tmp_path / 'none.onnx'}" in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_is_on_terminals_only(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("FORCE_COLOR", "1")
        with FilesProgress([3.0, None, 6.0]) as progress:
            progress.begin("one.wav")
            progress.begin("t\033wo.wav")
            progress.within(1, 2)
            with progress.paused():
                before = stream.getvalue()
                stream.write("result\n")
                assert stream.getvalue() == before + "result\n"
        shown = stream.getvalue()
        assert (shown == "result\n") is not stream.isatty()
    assert "1/3 one.wav" in shown or "2/3 t\\x1bwo.wav" in shown
    assert "39%" in shown  # 3 of 13.5 seconds, and half of 4.5 more
    assert "\033w" not in shown


def test_the_time_left_is_known_after_the_first_file(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    now = 100.0
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    with FilesProgress([10.0, 30.0]) as progress:
        progress.begin("one.wav")
        now += 20
        progress.begin("two.wav")
        with progress.paused():
            pass
    assert "0:01:00" in sys.stderr.getvalue()
