"""Transcripts made elsewhere, in the same figures as the evaluation's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

REFERENCES = {
    "one": ("test", "bin blue at f two now"),
    "two": ("test", "lay red by a one soon"),
    "three": ("valid", "set white in b six please"),
}
COSTS = {"tokens_mean", "tflops_mean", "rtf"}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest whose media files are not there."""
    return sheet(tmp_path / "clips.csv", ("id", "path", "split", "text"), *references())


def references() -> list[tuple[str, ...]]:
    return [(name, f"{name}.mp4", split, text) for name, (split, text) in REFERENCES.items()]


def sheet(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def score(run, manifest, tmp_path):
    """Score rows of a CSV file that starts with their header."""

    def call(*rows: tuple[str, ...], options: tuple = (), code: int = 0):
        hypotheses = sheet(tmp_path / "whisper.csv", *rows)
        result = run("score", hypotheses, "--data", manifest, *options)
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def results(score):
    return lambda *rows, options=(): json.loads(score(*rows, options=(*options, "--json")).stdout)["results"]


def test_a_file_of_ids_and_texts(score, manifest, tmp_path):
    out = tmp_path / "scores.json"
    rows = [("id", "text"), ("two", "Lay  RED by a one"), ("one", "bin blue at f two now")]
    printed = json.loads(score(*rows, options=("--split", "test", "--json", "--out", out)).stdout)
    assert json.loads(out.read_text()) == printed
    assert (printed["model"], printed["data"], printed["seed"]) == (None, str(manifest), 0)
    (one,) = printed["results"]
    assert (one["system"], one["task"], one["rates"], one["snr_db"]) == ("whisper", None, None, None)
    assert (one["wer"], one["words"], one["clips"], one["deletions"]) == (1 / 12, 12, 2, 1)
    assert one["ci95"][0] <= one["wer"] <= one["ci95"][1]
    assert {one[key] for key in COSTS} == {None}
    assert one["failures"] == []


def test_the_table_is_that_of_evaluate(score):
    header = ("id", "text", "system", "task", "rates", "snr_db")
    rows = [(name, text, "ours", "avsr", "(4, 2)", "0") for name, (_, text) in REFERENCES.items()]
    rows += [(name, "bin", "theirs", "", "", "") for name in REFERENCES]
    rows += [(name, text, "", "asr", "", "-5") for name, (_, text) in REFERENCES.items()]
    head, _, *lines = score(header, *rows).stdout.splitlines()
    assert head.split()[:4] == ["system", "task", "rates", "SNR"]
    assert [line.split()[:5] for line in lines] == [
        ["ours", "avsr", "4,2", "0", "0.0"],
        ["whisper", "asr", "-", "-5", "0.0"],
        ["theirs", "-", "-", "clean", "94.4"],
    ]
    assert all(line.split()[-3:] == ["-", "-", "-"] for line in lines)


def test_the_task_of_transcripts_that_do_not_say_it(results):
    header = ("id", "text", "system", "task", "rates")
    rows = [(name, "bin", *what) for name in REFERENCES for what in (("a", "", ""), ("b", "vsr", ""), ("c", "", "4,2"))]
    found = results(header, *rows, options=("--task", "asr"))
    assert [(one["system"], one["task"], one["rates"]) for one in found] == [
        ("a", "asr", None),
        ("b", "vsr", None),
        ("c", "avsr", "4,2"),
    ]


def test_only_the_clips_of_the_split_count(results):
    rows = [("id", "text"), *((name, text) for name, (_, text) in REFERENCES.items())]
    assert [one["clips"] for one in results(*rows)] == [3]
    assert [one["clips"] for one in results(*rows, options=("--split", "valid"))] == [1]


def test_missing_clips_are_empty_or_left_out_if_that_is_said(score, results):
    rows = [("id", "text"), ("one", "bin blue at f two now")]
    (empty,) = results(*rows, options=("--missing", "empty"))
    assert (empty["clips"], empty["words"], empty["deletions"], empty["failures"]) == (3, 18, 12, [])
    (skipped,) = results(*rows, options=("--missing", "skip"))
    assert (skipped["clips"], skipped["words"], skipped["wer"]) == (1, 6, 0.0)
    assert [failure["id"] for failure in skipped["failures"]] == ["two", "three"]
    assert "left out 2 clips without a transcript: two, three" in score(*rows, options=("--missing", "skip")).stderr
    none = results(("id", "text"), ("one", ""), options=("--missing", "skip", "--split", "valid"))
    assert [(one["clips"], one["wer"], one["ci95"]) for one in none] == [(0, None, None)]


def test_clips_in_which_nothing_is_said(run, tmp_path):
    """Every word heard there is an insertion, also where nothing is left but a filler."""
    data = sheet(tmp_path / "clips.csv", ("id", "text"), ("one", ""), ("two", "Um."), ("three", "hello"))
    spoken = sheet(tmp_path / "x.csv", ("id", "text"), ("one", "hello there"), ("two", "um"), ("three", "Hello!"))

    def one(*options: str) -> dict:
        result = run("score", spoken, "--data", data, "--json", *options)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert document["normalize"] == (options[-1] if options else "lower")
        return document["results"][0]

    assert [one()[key] for key in ("wer", "words", "insertions", "substitutions", "clips")] == [2.0, 2, 2, 2, 3]
    found = one("--normalize", "whisper")
    assert [found[key] for key in ("wer", "words", "insertions", "substitutions", "clips")] == [2.0, 1, 2, 0, 3]
    sheet(data, ("id", "text"), ("one", ""))
    sheet(spoken, ("id", "text"), ("one", ""))
    assert [one()[key] for key in ("wer", "words", "ci95")] == [0.0, 0, [0.0, 0.0]]


WHOLE = [("one", "a"), ("two", "b"), ("three", "c")]


@pytest.mark.parametrize(
    ("rows", "hints"),
    [
        ([], ["is empty", "id, text"]),
        ([("id", "text")], ["header only"]),
        ([("id", "hypothesis"), *WHOLE], ["lacks the column text", "id, hypothesis"]),
        ([("id", "text"), *WHOLE, ("four", "d"), ("five", "e")], ["2 ids that are not in", "four, five"]),
        ([("id", "text"), *WHOLE, ("two", "b")], ["clip 'two' is in line 3 and in line 5"]),
        ([("id", "text"), ("one", "a")], ["no transcript of 2 of 3 clips for whisper: two, three", "--missing"]),
        ([("id", "text"), *WHOLE[:2], ("three", "c", "d")], ["line 4", "3 fields", "quotes"]),
        ([("id", "text"), *WHOLE[:2], ("three",)], ["line 4", "1 fields"]),
        ([("id", "text"), *WHOLE[:2], ("", "c")], ["line 4: the id is empty"]),
        ([("id", "text", "task"), ("one", "a", "ocr")], ["line 2: task 'ocr'"]),
        ([("id", "text", "rates"), ("one", "a", "four")], ["line 2: rates 'four'"]),
        ([("id", "text", "task", "rates"), ("one", "a", "asr", "4,2")], ["line 2: rates '4,2'", "avsr, not of asr"]),
        ([("id", "text", "snr_db"), ("one", "a", "loud")], ["line 2: snr_db 'loud'"]),
        ([("id", "text", "snr_db"), ("one", "a", "nan")], ["line 2: snr_db 'nan'"]),
    ],
)
def test_bad_transcripts_are_answered_in_one_line(refused, manifest, tmp_path, rows, hints):
    line = refused("score", sheet(tmp_path / "whisper.csv", *rows), "--data", manifest)
    for hint in ["whisper.csv", *hints]:
        assert hint in line


def test_a_control_is_compared_with_over_the_same_clips(score, tmp_path):
    said = {name: text for name, (_, text) in REFERENCES.items()}
    words = {name: len(text.split()) for name, text in said.items()}
    ours = [(name, text, "avsr", "4,2", level) for level in ("", "0") for name, text in said.items()]
    theirs = [(name, " ".join(text.split()[1:]), "avsr", "4,2", "") for name, text in said.items()]  # a word less each
    theirs += [(name, "", "avsr", "16,5", "") for name in said]
    control = sheet(tmp_path / "theirs.csv", ("id", "text", "task", "rates", "snr_db"), *theirs)
    options = ("--control", control)
    header = ("id", "text", "task", "rates", "snr_db")
    printed = json.loads(score(header, *ours, options=(*options, "--json")).stdout)
    clean, noisy = printed["results"]
    assert printed["control"] == str(control)
    assert clean["change"] == pytest.approx(-3 / sum(words.values()))
    low, high = clean["change_ci95"]
    assert -1 / min(words.values()) <= low <= clean["change"] <= high <= -1 / max(words.values())
    assert (noisy["change"], noisy["change_ci95"]) == (None, None), "the control was not measured in noise"
    lines = score(header, *ours, options=options).stdout.splitlines()
    assert lines[0].endswith("WER change (95 %)")
    assert lines[2].split()[-4:] == ["-16.7", f"({100 * low:+.1f}", "to", f"{100 * high:+.1f})"]
    assert lines[3].split()[-1] == "-"


def test_a_control_of_unknown_rates_is_compared_with_all(score, tmp_path):
    right = [(name, text) for name, (_, text) in REFERENCES.items()]
    control = sheet(tmp_path / "theirs.csv", ("id", "text"), *right)
    rows = [(name, "", rates) for rates in ("4,2", "16,-") for name in REFERENCES]
    printed = json.loads(score(("id", "text", "rates"), *rows, options=("--control", control, "--json")).stdout)
    assert [one["change"] for one in printed["results"]] == [1.0, 1.0], "theirs is right, ours is empty"
    assert [one["change_ci95"] for one in printed["results"]] == [[1.0, 1.0]] * 2


def test_a_control_of_another_task_or_of_several_systems_is_none(score, tmp_path):
    header = ("id", "text", "system", "task")
    theirs = [
        (name, "", system, task) for system, task in (("a", "asr"), ("b", "vsr"), ("c", "vsr")) for name in REFERENCES
    ]
    control = sheet(tmp_path / "theirs.csv", header, *theirs)
    ours = [(name, "", "ours", task) for task in ("avsr", "asr", "vsr") for name in REFERENCES]
    printed = json.loads(score(header, *ours, options=("--control", control, "--json")).stdout)
    assert [(one["task"], one["change"]) for one in printed["results"]] == [("avsr", None), ("asr", 0), ("vsr", None)]


def test_a_control_with_nothing_in_common_is_refused(refused, manifest, tmp_path):
    ours = sheet(tmp_path / "ours.csv", ("id", "text"), *WHOLE)
    theirs = sheet(tmp_path / "theirs.csv", ("id", "text", "snr_db"), *[(*row, "5") for row in WHOLE])
    line = refused("score", ours, "--data", manifest, "--control", theirs, "--out", tmp_path / "out.json")
    assert "theirs.csv has no result to compare those of" in line
    assert not (tmp_path / "out.json").exists()
    assert "is given twice" in refused("score", ours, "--data", manifest, "--control", theirs, "--out", theirs)


def test_bad_manifests_and_options(refused, manifest, tmp_path):
    hypotheses = sheet(tmp_path / "whisper.csv", ("id", "text"), *WHOLE)

    def line(data: Path, *options: object) -> str:
        return refused("score", hypotheses, "--data", data, *options)

    assert "missing.csv does not exist" in line(tmp_path / "missing.csv")
    assert "folder" in line(manifest, "--out", tmp_path)
    assert "no split 'tset': its splits are test, valid" in line(manifest, "--split", "tset")
    assert "lacks the column split" in line(hypotheses, "--split", "test")
    assert "'one' is there twice" in line(sheet(tmp_path / "twice.csv", ("id", "text"), *WHOLE, WHOLE[0]))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert "not a CSV file in UTF-8" in line(tmp_path / "binary.csv")


def test_scores_of_an_evaluation_are_its_own(run, clips, tiny_model, tmp_path):
    rows = [
        ("one", str(clips / "talk.mkv"), "test", "bin blue at f two now"),
        ("two", str(clips / "mute.mkv"), "test", "lay red by a one soon"),
        ("three", str(clips / "talk.mkv"), "test", "please again, six white"),
    ]
    manifest = sheet(tmp_path / "clips.csv", ("id", "path", "split", "text"), *rows)
    transcripts = tmp_path / "heard.csv"
    noisy = ["--noise", clips / "noise.wav", "--snr", "clean", "--snr", "-2.5"]
    options = ["--task", "asr", "--task", "vsr", "--rates", "4,2", *noisy, "--transcripts", transcripts, "--json"]
    evaluated = run("evaluate", "--data", manifest, "--model", tiny_model, *options)
    assert evaluated.exit_code == 1  # "two" has no sound
    with transcripts.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [name for name in tmp_path.iterdir() if name.suffix not in (".csv",)] == []
    assert set(written[0]) == {"id", "task", "rates", "snr_db", "reference", "text"}
    assert {row["reference"] for row in written if row["id"] == "three"} == {"please again, six white"}
    scored = run("score", transcripts, "--data", manifest, "--missing", "skip", "--json")
    expected = json.loads(evaluated.stdout)["results"]
    assert [one["clips"] for one in expected] == [2, 2, 3, 3]
    assert min(one["wer"] for one in expected) > 0
    found = json.loads(scored.stdout)["results"]
    assert [{k: v for k, v in one.items() if k not in COSTS | {"failures", "system"}} for one in found] == [
        {k: v for k, v in one.items() if k not in COSTS | {"failures"}} for one in expected
    ]
    assert [[bad["id"] for bad in one["failures"]] for one in found] == [["two"], ["two"], [], []]
