"""Checkpoints of models whose LoRA was merged into the backbone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mome.adapters
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from tests.model.build import ALL_RATES, make_model, raw_inputs, transcripts

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])
TASKS = {"type": "lora", "bottleneck": 2, "specific": "tasks"}
RATES = {"type": "lora", "bottleneck": 2, "specific": "rates", "shared": False}


@torch.no_grad()
def logits(model: MomeForSpeechRecognition) -> torch.Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=ALL_RATES[0]).logits


@torch.no_grad()
def written(model: MomeForSpeechRecognition) -> list[list[int]]:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    return model.generate(**raw_inputs(CLIPS), rates=ALL_RATES[0], **options).tolist()


def check(model: MomeForSpeechRecognition, folder: Path) -> None:
    loaded = MomeForSpeechRecognition.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert written(loaded) == written(model)
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(("adapter", "which"), [("lora", None), (TASKS, "avsr")], ids=["one", "tasks"])
def test_a_merged_adapter_is_in_the_language_model(tmp_path: Path, adapter: Any, which: str | None) -> None:
    model = make_model("llama", adapter)
    before = logits(model)
    assert model.merge(which) is model
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path, self_contained=True)
    assert json.loads((tmp_path / "config.json").read_text()).get("adapter") is None
    assert model.config.adapter is None
    check(model, tmp_path)


@pytest.mark.parametrize(
    ("adapter", "which", "left"),
    [
        (RATES, "16,2", ["16,2"]),
        (RATES, "16,-", ["16,-"]),
        (TASKS, "avsr", ["4,2", "4,5", "16,2", "16,5"]),
        (TASKS, "vsr", ["-,2", "-,5"]),
    ],
)
def test_only_the_rates_of_the_merged_group_are_left(
    tmp_path: Path, adapter: dict[str, Any], which: str, left: list[str]
) -> None:
    model, inputs = make_model("llama", adapter), raw_inputs(CLIPS)
    everything = list(model.config.rate_set.rates())
    with torch.no_grad():
        expected = {rates: model(**inputs, labels=LABELS, rates=rates).logits for rates in everything}
    model.merge(which)
    model.save_pretrained(tmp_path / "first", self_contained=True)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = MomeForSpeechRecognition.from_pretrained(tmp_path / "second")
    assert [str(rates) for rates in loaded.config.rate_set.rates()] == left
    for one in (model, loaded, again):
        assert [str(rates) for rates in one.rate_set.rates()] == left
        for rates in everything:
            with torch.no_grad(), nullcontext() if str(rates) in left else pytest.raises(MomeError, match=str(rates)):
                logits_then = one(**inputs, labels=LABELS, rates=rates).logits
                torch.testing.assert_close(logits_then, expected[rates], rtol=1e-4, atol=1e-4)
            with nullcontext() if str(rates) in left else pytest.raises(MomeError, match=f"{rates}.*for .* only"):
                one.generate(**inputs, rates=rates, max_new_tokens=2)


def test_an_adapter_attached_after_merging_counts(tmp_path: Path) -> None:
    model = make_model("llama", RATES)
    everything = [str(rates) for rates in model.rate_set.rates()]
    mome.adapters.merge(model.language_model, 2)
    mome.adapters.attach(model.language_model, model.config.adapter_config)
    assert [str(rates) for rates in model.rate_set.rates()] == everything
    model.save_pretrained(tmp_path, self_contained=True)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert [str(rates) for rates in loaded.rate_set.rates()] == everything


def test_both_adapters(tmp_path: Path) -> None:
    model = make_model("llama", "lora", video_adapter={"bottleneck": 2})
    for name, value in model.named_parameters():
        if "video_encoder" in name and ".lora." in name:
            torch.nn.init.normal_(value, std=0.3)
    before = logits(model)
    model.merge()
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path, self_contained=True)
    check(model, tmp_path)


def test_a_checkpoint_that_refers_to_the_backbone_is_refused(tmp_path: Path) -> None:
    model = make_model("llama", "lora")
    model.config.language_model = "meta-llama/Llama-3.2-1B"
    model.merge()
    with pytest.raises(MomeError, match=r"Llama-3.2-1B is without it: save with self_contained=True"):
        model.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    model.save_pretrained(tmp_path / "saved", self_contained=True)
    check(model, tmp_path / "saved")


def test_an_unfrozen_language_model_is_stored_anyway(tmp_path: Path) -> None:
    model = make_model("llama", "lora", unfrozen=["language_model"])
    model.merge()
    model.save_pretrained(tmp_path)
    check(model, tmp_path)


def test_one_backbone_is_merged_and_the_other_keeps_its_adapter(tmp_path: Path) -> None:
    for part, option, other in (
        ("language_model", "adapter", "video_adapter"),
        ("video_encoder", "video_adapter", "adapter"),
    ):
        model = make_model("llama", "lora", video_adapter={"bottleneck": 2})
        before = logits(model)
        model.merge(parts=[part])
        torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
        model.save_pretrained(tmp_path / part)
        loaded = MomeForSpeechRecognition.from_pretrained(tmp_path / part)
        assert getattr(loaded.config, option) is None
        assert getattr(loaded.config, other) is not None
        assert torch.equal(logits(loaded), logits(model))
        with pytest.raises(MomeError, match="there is no adapter to merge into the"):
            loaded.merge(parts=[part])


@pytest.mark.parametrize(
    ("adapter", "which", "message"),
    [
        ("none", None, "there is no adapter to merge"),
        ("lora", "4,2", "'4,2' cannot be chosen: the adapter is the same for all rates"),
        ("layer", None, "mome adapter makes no low-rank update"),
        (RATES, None, "an update for each of 4,2 4,5 .*: merge one of these, not None"),
        (RATES, "asr", "an update for each of 4,2 4,5 .*: merge one of these, not 'asr'"),
        (RATES, "8,2", r"rates \(8,2\) are not in this model's rate set"),
        (RATES, "fast", "rates 'fast' are not readable"),
        (TASKS, "4,2", "an update for each of avsr asr vsr: merge one of these, not '4,2'"),
    ],
)
def test_what_cannot_be_merged(adapter: Any, which: str | None, message: str) -> None:
    model = make_model("llama", adapter)
    before, config = logits(model), model.config.to_dict()
    with pytest.raises(MomeError, match=message):
        model.merge(which)
    assert model.config.to_dict() == config
    assert torch.equal(logits(model), before)


def test_adapters_that_the_configuration_does_not_know_are_not_saved(tmp_path: Path) -> None:
    model = make_model("llama", RATES)
    config = model.config.adapter_config
    mome.adapters.merge(model.language_model, 2)
    with pytest.raises(MomeError, match=r"config\.adapter does not say what is attached to the language model"):
        model.save_pretrained(tmp_path)
    model = make_model("llama", RATES).merge("16,2")
    mome.adapters.attach(model.language_model, config)
    with pytest.raises(MomeError, match=r"set config\.adapter to what was attached afterwards"):
        model.save_pretrained(tmp_path)
    model.config.adapter, model.config.only = RATES, None
    model.save_pretrained(tmp_path)
    assert MomeForSpeechRecognition.from_pretrained(tmp_path).rate_set == model.rate_set == model.config.rate_set
