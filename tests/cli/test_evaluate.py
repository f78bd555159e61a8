from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mome.decoding import Transcriber
from mome.errors import MomeError
from tests.media.builders import write

KEYS = {"task", "rates", "snr_db", "wer", "words", "clips", "ci95", "tokens_mean", "tflops_mean", "rtf"}


@pytest.fixture
def manifest(tmp_path: Path, clips: Path) -> Path:
    path = tmp_path / "clips.csv"
    rows = [
        f"one,{clips / 'talk.mkv'},test,bin blue at f two now",
        f"two,{clips / 'mute.mkv'},valid,lay red by a one soon",
        f"three,{clips / 'talk.mkv'},test,set white in b six please",
    ]
    path.write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    return path


@pytest.fixture
def evaluate(run, tiny_model, manifest):
    def call(*arguments, code: int = 0):
        result = run("evaluate", "--data", manifest, "--model", tiny_model, *arguments)
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def results(evaluate):
    def call(*arguments, code: int = 0) -> list[dict]:
        return json.loads(evaluate(*arguments, "--json", code=code).stdout)["results"]

    return call


def conditions(found: list[dict]) -> list[tuple]:
    return [(one["task"], one["rates"], one["snr_db"]) for one in found]


def test_document(evaluate, manifest, tiny_model, tmp_path):
    out = tmp_path / "result.json"
    printed = json.loads(evaluate("--split", "test", "--rates", "4,2", "--json", "--out", out).stdout)
    assert json.loads(out.read_text()) == printed
    assert (printed["model"], printed["data"], printed["seed"]) == (str(tiny_model), str(manifest), 0)
    (one,) = printed["results"]
    assert set(one) >= KEYS
    assert (one["clips"], one["words"]) == (2, 12)
    assert one["ci95"][0] <= one["wer"] <= one["ci95"][1]
    assert one["tokens_mean"] == 15 + 15 + 8


def test_the_default_is_every_rate_of_the_main_task(results):
    found = results("--split", "test")
    assert conditions(found) == [("avsr", rates, None) for rates in ("4,2", "4,5", "16,2", "16,5")]


def test_rates_are_cut_down_to_the_task(results):
    found = results("--split", "test", "--task", "asr", "--rates", "4,2", "--rates", "4,5", "--rates", "16,2")
    assert conditions(found) == [("asr", "4,-", None), ("asr", "16,-", None)]
    assert conditions(results("--split", "test", "--task", "vsr")) == [
        ("vsr", "-,2", None),
        ("vsr", "-,5", None),
    ]


def test_zero_decibel_is_a_ratio_like_any_other(results, clips):
    noise = ["--noise", clips / "noise.wav", "--split", "test", "--task", "asr", "--rates", "4,-"]
    found = results(*noise, "--snr", "clean", "--snr", "0", "--snr", "-5.5")
    assert conditions(found) == [("asr", "4,-", None), ("asr", "4,-", 0.0), ("asr", "4,-", -5.5)]
    assert found == [{**one, "rtf": found[number]["rtf"]} for number, one in enumerate(found)]


def test_table(evaluate, clips):
    result = evaluate("--split", "test", "--snr", "0", "--noise", clips / "noise.wav", "--limit", "1")
    header, _, *rows = result.stdout.splitlines()
    for column in ("task", "rates", "SNR dB", "WER %", "95 % interval", "words", "clips", "tokens", "RTF"):
        assert column in header
    assert len(rows) == 4
    assert rows[0].split()[:3] == ["avsr", "4,2", "0"]
    assert "demonstration" in result.stderr


def test_clips_that_fail_are_listed(evaluate, results, tmp_path):
    result = evaluate("--task", "asr", "--rates", "4,-", code=1)
    assert result.stdout.splitlines()[-1].split()[8] == "2"
    assert "1 clip could not be transcribed" in result.stderr
    assert "mute.mkv" in result.stderr.splitlines()[-1]
    (one,) = results("--task", "asr", "--rates", "4,-", "--split", "valid", code=2)
    assert (one["clips"], one["wer"]) == (0, None)
    assert [failure["id"] for failure in one["failures"]] == ["two"]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--snr", "0"], "--noise"),
        (["--snr", "loud"], "loud"),
        (["--noise", "x.wav"], "--snr"),
        (["--noise", "x.wav", "--snr", "clean"], "--snr"),
        (["--snr", "200", "--noise", "x.wav"], "200"),
        (["--task", "ast"], "avsr, asr, vsr"),
        (["--rates", "four"], "AUDIO,VIDEO"),
        (["--out", "."], "folder"),
    ],
)
def test_options_are_checked_before_any_work(refused, options, hint):
    assert hint in refused("evaluate", "--data", "missing.csv", "--model", "missing", *options)


def test_bad_manifests(refused, manifest, tiny_model, tmp_path):
    def line(*arguments: object) -> str:
        return refused("evaluate", "--model", tiny_model, "--data", *arguments)

    assert "missing.csv" in line(tmp_path / "missing.csv")
    assert "split 'tset'" in line(manifest, "--split", "tset")
    (tmp_path / "lacking.csv").write_text("id,path,split,words\na,b,c,d\n")
    assert "text" in line(tmp_path / "lacking.csv")
    (tmp_path / "gone.csv").write_text("id,path,split,text\na,gone.mp4,test,bin\n")
    assert "gone.mp4" in line(tmp_path / "gone.csv")


def test_rates_that_do_not_fit(refused, manifest, tiny_model):
    def line(*arguments: object) -> str:
        return refused("evaluate", "--model", tiny_model, "--data", manifest, *arguments)

    assert "audio rates 4, 16" in line("--rates", "4,3")
    assert "'-,2'" in line("--rates", "-,2", "--task", "asr")


def test_interrupted_it_writes_what_is_done(evaluate, manifest, tmp_path, monkeypatch):
    whole = Transcriber.transcribe_batch
    calls = []

    def interrupted(self, clips, *arguments, **options):
        calls.append(clips)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, clips, *arguments, **options)

    monkeypatch.setattr(Transcriber, "transcribe_batch", interrupted)
    out, transcripts = tmp_path / "out.json", tmp_path / "heard.csv"
    options = ["--batch", "1", "--rates", "-,2", "--out", out, "--transcripts", transcripts, "--json"]
    result = evaluate(*options, code=130)
    assert result.stderr == "mome: interrupted\n"
    document = json.loads(result.stdout)
    assert json.loads(out.read_text()) == document
    assert (document["interrupted"], document["results"][0]["clips"]) == (True, 2)
    assert [line.split(",")[0] for line in transcripts.read_text().splitlines()] == ["id", "one", "two"]


def test_the_figures_outlive_a_full_disk(evaluate, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise MomeError("the disk is full")

    monkeypatch.setattr("mome.evaluation.result.write_json", full)
    found = evaluate("--limit", "1", "--rates", "-,2", "--out", tmp_path / "out.json", "--json", code=2)
    assert json.loads(found.stdout)["results"][0]["clips"] == 1
    assert "the disk is full" in found.stderr


def test_clips_in_which_nothing_is_said(results, evaluate, clips, tmp_path):
    (tmp_path / "silent.csv").write_text(f"id,path,split,text\none,{clips / 'talk.mkv'},test,\n")
    (one,) = results("--data", tmp_path / "silent.csv", "--rates", "4,2")
    assert (one["words"], one["clips"], one["wer"]) == (0, 1, one["insertions"])
    found = evaluate("--data", tmp_path / "silent.csv", "--rates", "4,2", "--normalize", "whisper", "--json")
    assert json.loads(found.stdout)["normalize"] == "whisper"


def test_one_reason_of_many_clips_is_listed_once(evaluate, tmp_path, monkeypatch):
    """Without a face, no lips can be read; without a detector of faces, those of no clip."""
    film = write(tmp_path / "film.mkv", [np.zeros((120, 160), np.uint8)] * 10)
    rows = [f"{name},{film},test,bin blue" for name in ("a", "b", "c")]
    (tmp_path / "films.csv").write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    result = evaluate("--data", tmp_path / "films.csv", "--rates", "-,2", code=2)
    (line,) = [line for line in result.stderr.splitlines() if "no face found" in line]
    assert line.startswith("mome: clip a, clip b, clip c: ")
    monkeypatch.setenv("MOME_FACE_DETECTOR", str(tmp_path / "none.onnx"))
    result = evaluate("--data", tmp_path / "films.csv", "--rates", "-,2", code=2)
    (line,) = [line for line in result.stderr.splitlines() if "MOME_FACE_DETECTOR" in line]
    assert line.startswith(f"mome: MOME_FACE_DETECTOR names {tmp_path / 'none.onnx'}, which is not a file")


def test_a_chosen_number_of_experts(evaluate, manifest, tiny_model, refused):
    one = ("--split", "test", "--rates", "4,2", "--json")
    documents = {number: json.loads(evaluate(*one, "--top-k", number).stdout) for number in (1, 4)}
    default = json.loads(evaluate(*one).stdout)
    assert [document.get("top_k") for document in (*documents.values(), default)] == [1, 4, None]
    few, all_of_them = (document["results"][0]["tflops_mean"] for document in documents.values())
    assert few < all_of_them
    again = refused("evaluate", "--data", manifest, "--model", tiny_model, "--top-k", 5)
    assert again.startswith("mome: --top-k = 5 is not possible: choose 1 to 4, the routed experts")


def test_a_share_of_a_ctc_head_that_is_not_there(run, manifest):
    for command in (["evaluate", "--data", manifest], ["transcribe", "nothing.mp4"]):
        result = run(*command, "--ctc-weight", 0.5)
        assert result.exit_code == 2
        assert "--ctc-weight 0.5 is not possible: mome-tiny has no CTC head, leave it out" in result.stderr
    assert run("transcribe", "nothing.mp4", "--ctc-weight", 1.5).exit_code == 2
