"""Models of some tasks only, and the evaluation's cache, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mome
import mome.data.clips
from mome.errors import MomeError
from mome.rates import Rates


@pytest.fixture
def avsr_model(tiny_model, tmp_path) -> Path:
    """A model that was made for AVSR alone."""
    folder = tmp_path / "avsr"
    folder.mkdir()
    for path in tiny_model.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((tiny_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tasks": ["avsr"]}))
    return folder


def test_rates_of_another_task_are_refused(refused, run, avsr_model, clips):
    line = refused("transcribe", clips / "talk.mkv", "--model", avsr_model, "--rates", "4,-")
    assert "rates (4,-) ask for asr, which this model was not made for" in line
    assert "for avsr only" in line
    assert "vsr" in refused("transcribe", clips / "talk.mkv", "--model", avsr_model, "--rates", "-,2")
    result = run("transcribe", clips / "talk.mkv", "--model", avsr_model, "--all-rates", "--json")
    assert [one["rates"] for one in json.loads(result.stdout)["results"]] == ["4,2", "4,5", "16,2", "16,5"]


def test_a_clip_that_lacks_a_modality(refused, avsr_model, clips):
    """AVSR cannot become VSR in a model that never learned it."""
    line = refused("transcribe", clips / "mute.mkv", "--model", avsr_model)
    assert "mute.mkv" in line
    assert "has no sound, and this model was not made for vsr" in line
    model = mome.load(avsr_model)
    for rates in ("4,2", None):
        with pytest.raises(MomeError, match=r"mute\.mkv has no sound, and this model was not made for vsr"):
            model.transcribe(clips / "mute.mkv", rates)
    loaded = model.load_clip(clips / "talk.wav", [Rates(4, 2)])
    with pytest.raises(MomeError, match=r"talk\.wav has no visible mouth, and this model was not made for asr"):
        model.transcribe(loaded)


def test_a_cached_evaluation_reads_no_media_again(run, tiny_model, clips, tmp_path, monkeypatch):
    rows = [f"{number},{clips / 'talk.mkv'},test,bin blue at f two now" for number in range(2)]
    (tmp_path / "clips.csv").write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    reads: list[Path] = []
    read = mome.data.clips.load_clip

    def counting(path: Path, **options):
        reads.append(path)
        return read(path, **options)

    def evaluate(*options: object) -> list[dict]:
        shown = run("evaluate", "--data", tmp_path / "clips.csv", "--model", tiny_model, "--json", *options)
        assert shown.exit_code == 0, shown.output
        return [{**one, "rtf": None} for one in json.loads(shown.stdout)["results"]]

    cached = ("--rates", "4,2", "--rates", "16,-", "--cache", tmp_path / "cache")
    expected = evaluate(*cached[:4])
    monkeypatch.setattr(mome.data.clips, "load_clip", counting)
    assert evaluate(*cached) == expected
    assert [path.name for path in reads] == ["talk.mkv"], "both rows are of one file"

    def fail(path: Path, **options):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(mome.data.clips, "load_clip", fail)
    monkeypatch.setattr("mome.decoding.transcriber.load_clip", fail)
    assert evaluate(*cached) == expected
    assert evaluate(*cached, "--noise", clips / "noise.wav", "--snr", "0") != expected, "noise is added afterwards"
