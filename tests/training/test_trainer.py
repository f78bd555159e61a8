from __future__ import annotations

import math
import os
from inspect import getsource, signature
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerState, TrainingArguments

from mome import MomeError, MomeForSpeechRecognition, Rates, Transcriber
from mome.adapters import RouterStatistics
from mome.model.model import EncodedClips
from mome.training.build import build
from mome.training.recipe import ModelRecipe, Recipe
from mome.training.schedule import RateSchedule, TopKSchedule
from mome.training.trainer import MatryoshkaTrainer, _write_state, routing_summary
from tests.model.build import ALL_RATES, make_model, raw_inputs, transcripts
from tests.training.toy import toy_backbones

LABELS = transcripts([4, 2])


class NoData:
    """Stands in for a dataset where none is drawn from."""

    def __len__(self) -> int:
        return 1

    def collate(self, items: list) -> dict:
        return {}


def trainer(
    folder: Path, rates_per_step: int | None = None, seed: int = 0, validate: Any = None, rates=tuple(ALL_RATES)
) -> MatryoshkaTrainer:
    options = {"eval_strategy": "steps", "eval_steps": 1} if validate else {}
    args = TrainingArguments(str(folder), seed=seed, use_cpu=True, report_to=[], **options)
    return MatryoshkaTrainer(
        make_model(), args, NoData(), None, RateSchedule(rates, seed, rates_per_step), validate=validate
    )


def test_rates_of_a_step_are_told_by_seed_and_step_alone(tmp_path):
    first, second, other = (trainer(tmp_path, 2, seed) for seed in (1, 1, 2))
    drawn = [first.schedule(step) for step in range(60)]
    assert [second.schedule(step) for step in reversed(range(60))] == drawn[::-1]
    assert [other.schedule(step) for step in range(60)] != drawn
    assert all(len(set(rates)) == 2 for rates in drawn)
    assert {rates for pair in drawn for rates in pair} == set(ALL_RATES)
    everything = trainer(tmp_path)
    assert everything.schedule(5) == trainer(tmp_path, 9).schedule(5) == ALL_RATES


def test_loss_from_raw_clips_and_from_stored_features(tmp_path):
    training, inputs = trainer(tmp_path, 3), raw_inputs([(133, 34), (64, 16)])
    encoded: EncodedClips = training.model.encode(**inputs)
    cached = {
        f"{name}_{what}": getattr(side, what)
        for name, side in (("audio", encoded.audio), ("video", encoded.video))
        for what in ("frames", "lengths")
    }
    for step in (0, 7):
        training.state.global_step = step
        expected = training.model(**inputs, labels=LABELS, matryoshka=training.schedule(step))
        loss, output = training.compute_loss(training.model, {**inputs, "labels": LABELS}, return_outputs=True)
        assert torch.equal(loss, expected.loss)
        assert set(output.transcript_losses) == {str(rates) for rates in training.schedule(step)}
        assert torch.equal(training.compute_loss(training.model, {**cached, "labels": LABELS}), loss)


def test_log_tells_the_means_since_the_last(tmp_path):
    training, inputs = trainer(tmp_path), {**raw_inputs([(133, 34)]), "labels": LABELS[:1]}
    first = training.compute_loss(training.model, inputs, return_outputs=True)[1].transcript_losses["4,2"]
    training.model.connector.audio[0][0].weight.data.mul_(-1)
    second = training.compute_loss(training.model, inputs, return_outputs=True)[1].transcript_losses["4,2"]
    assert first != second
    training.log({"loss": 1.0})
    logged = training.state.log_history[-1]
    assert logged["loss/4,2"] == pytest.approx((first + second).item() / 2)
    assert {f"loss/{rates}" for rates in ALL_RATES} <= set(logged)
    assert {f"router/{name}" for name in ("balance_loss", "entropy", "min_entropy", "max_load", "unused")} <= set(
        logged
    )
    training.log({"loss": 2.0})
    assert "loss/4,2" not in training.state.log_history[-1]


def test_a_step_has_the_number_of_experts_that_is_drawn_for_it(tmp_path):
    training, inputs = trainer(tmp_path), {**raw_inputs([(133, 34)]), "labels": LABELS[:1]}
    training.active_experts = TopKSchedule([1, 5], 0)
    drawn = [training.active_experts(step) for step in range(6)]
    assert set(drawn) == {1, 5}
    for step, number in enumerate(drawn):
        training.state.global_step = step
        loss = training.compute_loss(training.model, inputs)
        assert torch.equal(loss, training.model(**inputs, matryoshka=ALL_RATES, active_experts=number).loss)
    training.log({"loss": 1.0})
    assert training.state.log_history[-1]["router/top_k"] == pytest.approx(sum(drawn) / len(drawn))


def test_validation_leaves_training_as_it_was(tmp_path):
    modes = []

    def validate(model: MomeForSpeechRecognition) -> dict[str, float]:
        modes.append(model.training)
        return {"wer/4,2": 0.25}

    training = trainer(tmp_path, validate=validate)
    training.model.train()
    assert training.evaluate()["eval_wer/4,2"] == 0.25
    assert modes == [False]
    assert training.model.training
    assert not training.model.video_encoder.training
    assert training.state.log_history[-1]["eval_wer/4,2"] == 0.25


@pytest.mark.parametrize(
    "name",
    [
        "_get_grad_norm",
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_rng_state",
        "_save",
        "_save_checkpoint",
    ],
)
def test_the_trainers_own_methods_that_are_replaced_are_still_called_so(name):
    actual, other = (list(signature(getattr(kind, name)).parameters) for kind in (MatryoshkaTrainer, Trainer))
    assert actual == other
    assert f"self.{name}(" in getsource(Trainer)


def test_routing_summary():
    def layer(load: list[float], entropy: float) -> RouterStatistics:
        return RouterStatistics(torch.tensor(1.0), torch.tensor(load), torch.full((4,), 0.25), torch.tensor(entropy))

    logged = routing_summary([layer([0.25] * 4, math.log(4)), layer([0.7, 0.3, 0.0, 0.0], 0.0)])
    assert {name: value.item() for name, value in logged.items()} == {
        "router/entropy": pytest.approx(math.log(4) / 2),
        "router/min_entropy": 0.0,
        "router/max_load": pytest.approx(0.7),
        "router/unused": 0.25,
        "router/max_unused": 0.5,
        **{f"router/load_{expert}": pytest.approx(load) for expert, load in enumerate((0.475, 0.275, 0.125, 0.125))},
    }
    assert routing_summary([]) == {}


def test_a_recipes_model(tmp_path):
    parts = toy_backbones(tmp_path / "parts")
    recipe = ModelRecipe(
        audio_encoder=f"{parts}/audio_encoder",
        video_encoder=f"{parts}/video_encoder",
        language_model=f"{parts}/language_model",
        audio_context="clip",
        audio_rates=[4],
        video_rates=[2, 5],
        projector_hidden=12,
        adapter={"type": "lora", "bottleneck": 2},
    )
    model, processor = build(Recipe(recipe))
    frozen = MomeForSpeechRecognition.from_pretrained(parts)
    for name, value in model.audio_encoder.state_dict().items():
        assert torch.equal(value, frozen.audio_encoder.state_dict()[name])
    assert model.config.prompt_ids["asr"] == processor.tokenizer("Transcribe speech to text.").input_ids
    assert (processor.audio_context, processor.image_size) == ("clip", 24)
    assert Path(model.config.language_model).is_absolute()
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "language_model").exists()
    loaded = Transcriber(MomeForSpeechRecognition.from_pretrained(tmp_path / "out"), processor)
    assert loaded.default_rates == Rates(4, 2)
    (parts / "processor_config.json").unlink()  # the checkpoint around the parts has a tokenizer, too
    (parts / "language_model" / "tokenizer.json").unlink()
    with pytest.raises(MomeError, match=r"the tokenizer of .*language_model cannot be loaded"):
        build(Recipe(recipe))
    recipe.audio_encoder = recipe.language_model
    with pytest.raises(MomeError, match="of type llama, not one of avhubert"):
        build(Recipe(recipe))


def test_the_state_of_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        _write_state(TrainerState(global_step=3), str(tmp_path / "trainer_state.json"))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    _write_state(TrainerState(global_step=3), str(tmp_path / "ours.json"))
    TrainerState(global_step=3).save_to_json(str(tmp_path / "theirs.json"))
    assert (tmp_path / "ours.json").read_text() == (tmp_path / "theirs.json").read_text()
