from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mome
from mome.cli import transcribe as module
from mome.decoding import Transcriber
from mome.media import decode
from tests.media.builders import remux, write

KEYS = {"file", "task", "rates", "text", "segments", "tokens", "tflops", "seconds", "warnings"}


@pytest.fixture
def transcribe(run, tiny_model):
    return lambda *arguments: run("transcribe", "--model", tiny_model, *arguments)


@pytest.fixture
def document(transcribe):
    """The JSON document of a run, which must be all that stdout has."""

    def call(*arguments, code: int = 0) -> dict:
        result = transcribe(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return call


def test_one_clip_prints_its_text_alone(transcribe, document, clips):
    result = transcribe(clips / "talk.mkv")
    assert result.exit_code == 0
    text = document(clips / "talk.mkv")["results"][0]["text"]
    assert result.stdout == text + "\n"
    assert result.stderr == "the tests' model is a demonstration model: its weights are random\n"


def test_several_clips_or_rates_print_a_line_each(transcribe, clips):
    result = transcribe(clips / "talk.mkv", clips / "mute.mkv", "--rates", "-,2", "--rates", "-,5")
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in cells] == [
        [str(clips / name), rates] for name in ("talk.mkv", "mute.mkv") for rates in ("-,2", "-,5")
    ]


def test_json_document(document, clips, tiny_model):
    found = document(clips / "talk.mkv", "--rates", "(4, 2)", "--rates", "16,-", "--rates", "4,2")
    assert found["model"] == str(tiny_model)
    assert found["failures"] == []
    assert [(one["task"], one["rates"]) for one in found["results"]] == [("avsr", "4,2"), ("asr", "16,-")]
    for one in found["results"]:
        assert set(one) == KEYS
        assert set(one["seconds"]) == {"media", "encode", "decode"}
        tokens = one["tokens"]
        assert tokens["total"] == tokens["audio"] + tokens["video"] + tokens["prompt"]
        assert one["tflops"] > 0
    assert (found["results"][0]["tokens"]["audio"], found["results"][0]["tokens"]["video"]) == (15, 15)
    assert found["results"][1]["tokens"]["video"] == 0


def test_the_default_is_the_finest_rate(document, clips):
    assert [one["rates"] for one in document(clips / "talk.mkv")["results"]] == ["4,2"]


def test_all_rates(document, clips):
    every = ["4,2", "4,5", "16,2", "16,5", "4,-", "16,-", "-,2", "-,5"]
    assert [one["rates"] for one in document(clips / "talk.mkv", "--all-rates")["results"]] == every
    assert [one["rates"] for one in document(clips / "talk.wav", "--all-rates")["results"]] == every[4:6]
    assert [one["rates"] for one in document(clips / "mute.mkv", "--all-rates")["results"]] == every[6:]


def test_a_missing_modality_is_left_out_with_a_warning(transcribe, document, clips):
    found = document(clips / "talk.wav", "--rates", "4,2", "--rates", "4,5")
    assert [one["rates"] for one in found["results"]] == ["4,-"]
    assert "only the sound" in found["results"][0]["warnings"][0]
    assert "warning: " in transcribe(clips / "talk.wav").stderr


def test_subtitles(transcribe, clips):
    srt = transcribe(clips / "talk.mkv", "--format", "srt").stdout
    assert srt.startswith("1\n00:00:0")
    assert "WEBVTT\n\n00:00:0" in transcribe(clips / "talk.mkv", "--format", "vtt").stdout
    assert transcribe(clips / "talk.mkv", "--format", "tsv").stdout.startswith("start\tend\ttext\n")


def test_subtitles_of_several_clips_need_a_folder(transcribe, refused, clips, tiny_model, tmp_path):
    several = [clips / "talk.mkv", clips / "mute.mkv", "--format", "srt"]
    assert "--output-dir" in refused("transcribe", "--model", tiny_model, *several)
    result = transcribe(*several, "-o", tmp_path / "subtitles")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert sorted(path.name for path in (tmp_path / "subtitles").iterdir()) == ["mute.srt", "talk.srt"]
    transcribe(clips / "talk.mkv", "--rates", "4,2", "--rates", "-,5", "-o", tmp_path / "texts")
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["talk.a4v2.txt", "talk.v5.txt"]


def test_all_formats_are_written_to_a_folder(transcribe, refused, clips, tiny_model, tmp_path):
    assert "--output-dir" in refused("transcribe", clips / "talk.mkv", "--format", "all")
    result = transcribe(clips / "talk.mkv", "-f", "all", "-o", tmp_path / "all")
    assert (result.exit_code, result.stdout) == (0, "")
    files = {path.suffix: path.read_text("utf-8") for path in (tmp_path / "all").iterdir()}
    assert sorted(files) == [".json", ".srt", ".tsv", ".txt", ".vtt"]
    document = json.loads(files[".json"])
    assert set(document) == KEYS
    words = document["segments"][0]["words"]
    assert [word["word"] for word in words] == files[".txt"].split() == document["text"].split()
    start, end, text = files[".tsv"].splitlines()[1].split("\t")
    assert files[".tsv"].startswith("start\tend\ttext\n")
    assert int(start) == round(1000 * words[0]["start"]) < int(end)
    assert words[0]["word"] in text
    transcribe(clips / "talk.mkv", "-f", "all", "-o", tmp_path / "two", "--rates", "4,2", "--rates", "-,5")
    assert {path.name for path in (tmp_path / "two").iterdir()} >= {"talk.a4v2.tsv", "talk.v5.json"}
    assert "talk.wav" in refused("transcribe", clips / "talk.mkv", clips / "talk.wav", "-f", "all", "-o", tmp_path)


def test_words_are_in_the_json_document_when_asked_for(document, clips):
    (plain,), (timed,) = (document(clips / "talk.mkv", *more)["results"] for more in ([], ["--words"]))
    (before,), (after,) = plain["segments"], timed["segments"]
    assert (before["words"], before["avg_logprob"], before["no_speech"]) == ([], None, 0)
    assert [word["word"] for word in after["words"]] == timed["text"].split() == plain["text"].split()
    assert all(set(word) == {"start", "end", "word", "probability"} for word in after["words"])
    assert after["avg_logprob"] < 0


def test_files_for_one_name_are_refused(refused, clips, tmp_path):
    both = [clips / "talk.mkv", clips / "talk.wav", "-o", tmp_path]
    assert "talk.wav" in refused("transcribe", *both)
    assert "JSON" in refused("transcribe", clips / "talk.mkv", "-o", tmp_path, "--json")
    assert list(tmp_path.iterdir()) == []


def test_noise_is_mixed_in_and_repeatable(document, clips):
    noisy = [clips / "talk.mkv", "--rates", "4,-", "--noise", clips / "noise.wav"]
    texts = {snr: [document(*noisy, "--snr", snr)["results"][0]["text"] for _ in range(2)] for snr in ("0", "-30")}
    assert all(first == second for first, second in texts.values())
    assert document(*noisy[:-2])["results"][0]["text"]
    assert document(clips / "mute.mkv", "--rates", "-,2", *noisy[3:], "--snr", "0")["results"]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--snr", "0"], "--noise"),
        (["--noise", "noise.wav"], "--snr"),
        (["--noise", "noise.wav", "--snr", "nan"], "nan"),
        (["--rates", "4"], "AUDIO,VIDEO"),
        (["--rates", "0,2"], "audio rate 0"),
        (["--rates", "-,-"], "both modalities"),
        (["--rates", "4,2", "--all-rates"], "--all-rates"),
    ],
)
def test_options_are_checked_before_any_work(refused, options, hint):
    """The model and the clip do not exist, and are not looked for."""
    assert hint in refused("transcribe", "missing.mp4", "--model", "missing", *options)


def test_rates_outside_the_grid_are_refused_with_those_that_exist(refused, tiny_model):
    line = refused("transcribe", "missing.mp4", "--model", tiny_model, "--rates", "4,3")
    assert "(4,3)" in line
    assert "audio rates 4, 16 and video rates 2, 5" in line


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4", "cut.mkv", "nothing.mp4", "folder", "empty.wav"])
def test_a_bad_file_is_answered_in_one_line(refused, clips, tiny_model, name):
    line = refused("transcribe", clips / name, "--model", tiny_model)
    assert line.startswith("mome: ")
    assert name in line


def test_a_bad_file_is_in_the_json_document(transcribe, document, clips):
    found = document(clips / "text.mp4", code=2)
    assert found["results"] == []
    assert [failure["file"] for failure in found["failures"]] == [str(clips / "text.mp4")]
    assert "text.mp4" in found["failures"][0]["error"]


def test_a_batch_goes_on_after_bad_files(transcribe, document, clips):
    batch = [clips / name for name in ("text.mp4", "talk.mkv", "missing.mp4", "mute.mkv")]
    result = transcribe(*batch, "--rates", "-,5")
    assert result.exit_code == 1
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [str(batch[1]), str(batch[3])]
    lines = result.stderr.splitlines()
    assert lines[-3] == "2 of 4 files could not be transcribed:"
    assert "text.mp4" in lines[-2]
    assert "missing.mp4" in lines[-1]
    found = document(*batch, "--rates", "-,5", code=1)
    assert (len(found["results"]), len(found["failures"])) == (2, 2)


def test_a_batch_of_bad_files_only(transcribe, clips):
    result = transcribe(clips / "text.mp4", clips / "missing.mp4")
    assert result.exit_code == 1
    assert result.stdout == ""


def test_silence_has_no_ratio_to_noise(refused, clips, tiny_model):
    noise = ["--noise", clips / "noise.wav", "--snr", "0"]
    assert "silent.wav" in refused("transcribe", clips / "silent.wav", "--model", tiny_model, *noise)


def test_unusable_models(refused, clips, tmp_path):
    talk = clips / "talk.mkv"
    assert "nowhere" in refused("transcribe", talk, "--model", "nowhere")
    assert "config.json" in refused("transcribe", talk, "--model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "llama" in refused("transcribe", talk, "--model", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in refused("transcribe", talk, "--model", tmp_path)


def test_unusable_noise(refused, clips, tiny_model):
    talk, options = clips / "talk.mkv", ["--snr", "0", "--model", tiny_model]
    assert "silent.wav" in refused("transcribe", talk, "--noise", clips / "silent.wav", *options)
    assert "missing.wav" in refused("transcribe", talk, "--noise", "missing.wav", *options)


def test_a_clip_at_which_a_library_fails_does_not_lose_the_others(transcribe, clips, monkeypatch):
    batch, real = [clips / "talk.mkv", clips / "mute.mkv"], decode.probe

    def fails(path: Path, *track: int | None) -> decode.Media:
        if path.name == "talk.mkv":
            raise OSError(5, "Input/output error")
        return real(path, *track)

    monkeypatch.setattr("mome.media.reading.probe", fails)
    result = transcribe(*batch, "--rates", "-,5")
    assert result.exit_code == 1
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [str(batch[1])]
    assert f"mome: {batch[0]} cannot be decoded (Input/output error)" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", [TypeError("no such layout"), MemoryError(), AssertionError(), KeyError("s64")])
def test_whatever_one_file_fails_with_is_its_own_failure(document, transcribe, clips, monkeypatch, error):
    load = Transcriber.load_clip

    def odd(self, path, *arguments, **options):
        if path.name == "talk.mkv":
            raise error
        return load(self, path, *arguments, **options)

    monkeypatch.setattr(Transcriber, "load_clip", odd)
    found = document(clips / "talk.wav", clips / "talk.mkv", clips / "talk.wav", "--rates", "4,-", code=1)
    assert len(found["results"]) == 2
    (failure,) = found["failures"]
    assert failure["file"] == str(clips / "talk.mkv")
    assert failure["error"].startswith(type(error).__name__)
    assert "Traceback" not in transcribe(clips / "talk.mkv", "--rates", "4,-").stderr


def test_a_file_that_cannot_be_written_does_not_stop_the_others(transcribe, clips, tmp_path):
    (tmp_path / "talk.txt").mkdir()
    result = transcribe(clips / "talk.wav", clips / "mute.mkv", "--rates", "4,2", "-o", tmp_path)
    assert result.exit_code == 1
    assert "talk.txt cannot be written" in result.stderr
    assert (tmp_path / "mute.txt").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"talk.txt", "mute.txt"}


def test_interrupted_while_the_model_is_loaded(transcribe, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_model", interrupted)
    result = transcribe("a.mp4", "--json")
    assert (result.exit_code, result.stderr) == (130, "mome: interrupted\n")
    assert json.loads(result.stdout) | {"results": [], "interrupted": True} == json.loads(result.stdout)


def test_a_long_recording_is_cut_unless_it_is_a_clip_already(refused, transcribe, document, tiny_model, tmp_path):
    """The tests' model hears ten seconds at once."""
    mouth = [np.full((96, 96), 40, np.uint8)] * 275
    path = write(tmp_path / "long.mkv", mouth, wave=0.1 * np.ones(11 * 16_000, np.float32))
    for rates in (["--rates", "4,-"], ["--all-rates"]):
        line = refused("transcribe", path, "--model", tiny_model, "--no-vad", *rates)
        assert line.startswith(f"mome: {path} lasts 11.00 s, longer than the 10 s ")
    assert transcribe(path, "--rates", "-,5", "--no-vad").exit_code == 0
    (found,) = document(path, "--rates", "4,-", "--max-segment", "4", "--batch", "2")["results"]
    spans = [(segment["start"], segment["end"]) for segment in found["segments"]]
    assert 3 <= len(spans) <= 6
    assert all(end - start <= 4.05 for start, end in spans)
    assert spans[-1][1] == pytest.approx(11, abs=0.1)
    assert "max_segment=0.5 is not possible" in refused("transcribe", path, "--max-segment", "0.5")


def test_a_sound_track_is_chosen_by_its_number(transcribe, refused, document, clips, tiny_model, tmp_path):
    path = remux(tmp_path / "two.mka", clips / "talk.wav", clips / "noise.wav", defaults=(1, 0))
    (found,) = document(path, "--rates", "4,-")["results"]
    assert any("2 sound tracks" in line for line in found["warnings"])
    (other,) = document(path, "--rates", "4,-", "--audio-track", "1")["results"]
    assert (found["tokens"]["audio"], other["tokens"]["audio"]) == (15, 37)
    assert "numbered from 0" in refused("transcribe", path, "--audio-track", "2", "--model", tiny_model)


def test_a_chosen_number_of_experts(document, clips, tiny_model, refused):
    found = document(clips / "talk.mkv", "--rates", "16,5", "--top-k", 3)
    assert found["top_k"] == 3
    assert "top_k" not in document(clips / "talk.mkv", "--rates", "16,5")
    expected = mome.load(tiny_model).transcribe(clips / "talk.mkv", "16,5", active_experts=3)
    assert found["results"][0]["text"] == expected.text
    assert found["results"][0]["tflops"] == expected.tflops
    line = refused("transcribe", clips / "talk.mkv", "--model", tiny_model, "--top-k", 5)
    assert line == f"mome: --top-k = 5 is not possible: choose 1 to 4, the routed experts ({tiny_model})"


def test_experts_are_chosen_only_where_there_are_some(refused, clips, tiny_model, tmp_path):
    settings = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "adapter": None}))
    line = refused("transcribe", clips / "talk.mkv", "--model", tmp_path, "--top-k", 2)
    assert "--top-k = 2 is not possible: the model has no routed experts, leave it out" in line
