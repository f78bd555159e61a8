"""Checkpoints of models whose LoRA was merged into the backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mome.adapters
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from tests.model.build import GRID, make_model, raw_inputs, transcripts

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])
TASKS = {"type": "lora", "bottleneck": 2, "specific": "tasks"}


@torch.no_grad()
def logits(model: MomeForSpeechRecognition) -> torch.Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=GRID[0]).logits


@torch.no_grad()
def written(model: MomeForSpeechRecognition) -> list[list[int]]:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    return model.generate(**raw_inputs(CLIPS), rates=GRID[0], **options).tolist()


def check(model: MomeForSpeechRecognition, folder: Path) -> None:
    loaded = MomeForSpeechRecognition.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert written(loaded) == written(model)
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(("adapter", "group"), [("lora", None), (TASKS, 0)], ids=["one", "tasks"])
def test_a_merged_adapter_is_in_the_language_model(tmp_path: Path, adapter: Any, group: int | None) -> None:
    model = make_model("llama", adapter)
    before = logits(model)
    mome.adapters.merge(model.language_model, group)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path, self_contained=True)
    assert json.loads((tmp_path / "config.json").read_text()).get("adapter") is None
    assert model.config.adapter is not None, "the model itself is left as it is"
    check(model, tmp_path)


def test_both_adapters(tmp_path: Path) -> None:
    model = make_model("llama", "lora", video_adapter={"bottleneck": 2})
    for name, value in model.named_parameters():
        if "video_encoder" in name and ".lora." in name:
            torch.nn.init.normal_(value, std=0.3)
    before = logits(model)
    mome.adapters.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path, self_contained=True)
    check(model, tmp_path)


def test_a_checkpoint_that_refers_to_the_backbone_is_refused(tmp_path: Path) -> None:
    model = make_model("llama", "lora")
    model.config.language_model = "meta-llama/Llama-3.2-1B"
    mome.adapters.merge(model.language_model)
    with pytest.raises(MomeError, match=r"Llama-3.2-1B is without it: save with self_contained=True"):
        model.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    model.save_pretrained(tmp_path / "saved", self_contained=True)
    check(model, tmp_path / "saved")


def test_an_unfrozen_language_model_is_stored_anyway(tmp_path: Path) -> None:
    model = make_model("llama", "lora", unfrozen=["language_model"])
    mome.adapters.merge(model.language_model)
    model.save_pretrained(tmp_path)
    check(model, tmp_path)
