from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from mome.encoders.avhubert import AVHubertModel
from mome.model import MomeForSpeechRecognition
from tests.convert import mms
from tests.convert.fairseq import SETTINGS, TASK, save, tiny_state
from tests.convert.published import backbones, published, random_case


@pytest.fixture
def checkpoint(tmp_path):
    cfg = {"model": SETTINGS, "task": TASK}
    return save({"args": None, "cfg": cfg, "model": tiny_state()}, tmp_path / "tiny.pt")


def test_an_encoder_is_converted_and_accounted_for(run, checkpoint, tmp_path):
    done = run("convert", "av-hubert", checkpoint, tmp_path / "out")
    assert done.exit_code == 0, done.output
    used, total = len(tiny_state()) - 4, len(tiny_state())
    lines = done.stdout.splitlines()
    assert lines[0].startswith("AV-HuBERT of its own size: 2 layers of width 16")
    assert lines[1].startswith(f"used: {used} of {total} tensors")
    assert [line.split(",")[0] for line in lines if line.startswith("unused")] == [
        "unused: mask_emb",
        "unused: label_embs_concat",
        "unused: final_proj.* (2 tensors)",
    ]
    assert "non-commercial research only" in lines[-2]
    assert lines[-1] == f"wrote: {tmp_path / 'out'}"
    AVHubertModel.from_pretrained(tmp_path / "out")


def test_json(run, checkpoint, tmp_path):
    done = run("convert", "av-hubert", checkpoint, tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert document["folder"] == str(tmp_path / "out")
    assert document["tensors"] == document["used"] + sum(one["tensors"] for one in document["unused"])
    assert document["dtypes"] == ["float32"]
    assert "non-commercial" in document["license"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_does_not(refused, tmp_path, legacy):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trap'}",)

    path = save({"model": tiny_state(), "task_state": {"dictionaries": [Trap()]}}, tmp_path / "evil.pt", legacy)
    line = refused("convert", "av-hubert", path, tmp_path / "out")
    assert f"asks for {os.system.__module__}.system" in line
    assert sorted(one.name for one in tmp_path.iterdir()) == ["evil.pt"]


def test_mistakes(refused, checkpoint, tmp_path):
    assert "no checkpoint at" in refused("convert", "av-hubert", tmp_path / "none.pt", tmp_path / "out")
    assert "give a new or empty folder" in refused("convert", "av-hubert", checkpoint, tmp_path)
    assert "av-hubert" in refused("convert", "hubert", checkpoint, tmp_path / "out")
    assert "OUT" in refused("convert", "av-hubert", checkpoint)
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "other.pt")
    assert "not an AV-HuBERT checkpoint" in refused("convert", "av-hubert", tmp_path / "other.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_of_another_protocol_is_refused_by_name(refused, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trap'}",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"model": Trap()}, protocol=4))
    line = refused("convert", "av-hubert", tmp_path / "evil.pt", tmp_path / "out")
    assert f"asks for {os.system.__module__}.system" in line
    assert sorted(one.name for one in tmp_path.iterdir()) == ["evil.pt"]


@pytest.fixture
def recogniser(tmp_path):
    """Arguments that convert a tiny Omni-AVSR."""
    case = random_case("omni-avsr")
    sources = backbones(case, tmp_path)
    options = [
        f"--{name.replace('_', '-')}={getattr(sources, name)}"
        for name in ("language_model", "audio_encoder", "video_encoder")
    ]
    return ["convert", "omni-avsr", published(case, tmp_path), tmp_path / "out", *options]


def test_a_recogniser_is_converted_and_accounted_for(run, recogniser, tmp_path):
    done = run(*recogniser, "--audio-rates", "4, 8", "--lora-scale", "0.5")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "Omni-AVSR: avsr, asr, vsr at audio rates 4, 8 and video rates 2, 5, language model of 2 layers of width 16"
    )
    assert "note: the file does not show its rates, so assumed: video 2,5" in lines
    assert lines[-1] == f"wrote: {tmp_path / 'out'}"
    model = MomeForSpeechRecognition.from_pretrained(tmp_path / "out")
    assert (model.config.audio_rates, model.config.adapter["scale"]) == ([4, 8], 0.5)
    assert not any("LoRA" in line for line in lines)
    assert "SHA-256" in (tmp_path / "out" / "README.md").read_text()


def test_mistakes_with_recognisers(refused, recogniser, checkpoint, tmp_path):
    assert "--language-model" in refused(*recogniser[:4])
    assert "give whole numbers from 1 up" in refused(*recogniser, "--video-rates", "2,x")
    for scale in ("-1", "0", "nan", "inf"):
        assert "--lora-scale" in refused(*recogniser, f"--lora-scale={scale}")
    assert "--top-k is for llama-smop" in refused(*recogniser, "--top-k", "2")
    assert "--top-k is not for av-hubert" in refused(
        "convert", "av-hubert", checkpoint, tmp_path / "out", "--top-k", "2"
    )
    assert "2 video projectors" in refused(*recogniser, "--video-rates", "2")
    assert "--audio-rates is not for av-hubert" in refused(
        "convert", "av-hubert", checkpoint, tmp_path / "out", "--audio-rates", "4"
    )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_frozen_parts(run, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("mome.convert.mms.HEADS", 4)
    named = {name.replace("_", "-"): folder for name, folder in mms.backbones(tmp_path).items()}
    named["speech-rate"] = save({"model": mms.predictor()}, tmp_path / "rate.pt")
    path = save({"cfg": {"model": mms.SETTINGS}, "model": mms.state(tmp_path)}, tmp_path / "best.pt")
    command = ["convert", "mms-llama", path, tmp_path / "out"]
    options = {name: f"--{name}={value}" for name, value in named.items()}
    for name in options:
        others = [option for other, option in options.items() if other != name]
        assert f"mms-llama needs --{name}, such as " in refused(*command, *others)
    assert "--top-k is not for mms-llama, but for llama-avsr," in refused(*command, *options.values(), "--top-k", "2")
    assert "--speech-rate is not for omni-avsr, but for mms-llama" in refused(
        "convert", "omni-avsr", path, tmp_path / "out", options["speech-rate"]
    )
    assert not (tmp_path / "out").exists()
    done = run(*command, *options.values())
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "MMS-LLaMA: 1 or more tokens a second, language model of 2 layers of width 16"
    assert lines[-1] == f"wrote: {tmp_path / 'out'}"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.splitlines()[4] == "# MMS-LLaMA"
    assert "by `mome convert mms-llama`" in card
