"""The training pass against a slow computation of its own, clip after clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mome.model import MomeForSpeechRecognition
from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates
from tests.model.build import (
    ADAPTERS,
    ALL_RATES,
    KINDS,
    make_model,
    named_projectors,
    one_clip,
    raw_inputs,
    shared_model,
    transcripts,
)

CLIPS = [(133, 34), (64, 16), (90, 21)]
LABELS = transcripts([5, 3, 1])
DROPPED = {"type": "lora", "bottleneck": 4, "dropout": 0.4}


def close(actual, other, atol=2e-5):
    torch.testing.assert_close(actual, other, atol=atol, rtol=0)


def tokens_by_hand(model: MomeForSpeechRecognition, modality: str, encoded: Tensor, rate: int) -> Tensor:
    """``(T, D)`` encoder tokens of one clip → ``(⌊T / rate⌋, H)``."""
    config = model.config
    index = getattr(config, f"{modality}_rates").index(rate)
    state = {
        name.removeprefix(f"connector.{modality}.{index}."): value
        for name, value in model.named_parameters()
        if name.startswith(f"connector.{modality}.{index}.")
    }
    rows = []
    for start in range(0, len(encoded) - rate + 1, rate):
        window = encoded[start : start + rate]
        pooled = torch.cat(list(window)) if config.compression == "stack" else sum(window) / rate
        hidden = torch.relu(state["0.weight"] @ pooled + state["0.bias"])
        row = state["2.weight"] @ hidden + state["2.bias"]
        if config.projector_norm:
            row = F.layer_norm(row, row.shape, state["3.weight"], state["3.bias"])
        rows.append(row)
    return torch.stack(rows)


def sequence_by_hand(model: MomeForSpeechRecognition, clip: dict[str, Tensor], rates: Rates) -> Tensor:
    """``(L, H)``: start, audio in its markers, video, prompt."""
    embed, config = model.get_input_embeddings(), model.config
    parts = [embed(torch.tensor(config.start_ids))]
    if rates.audio is not None:
        audio = model.audio_encoder(clip["input_features"], clip["input_features_mask"]).frames[0]
        marks = embed(torch.tensor(config.audio_markers))
        parts += [marks[:1], tokens_by_hand(model, "audio", audio, rates.audio), marks[1:]]
    if rates.video is not None:
        video = model.video_encoder(clip["pixel_values_videos"]).frames[0]
        parts.append(tokens_by_hand(model, "video", video, rates.video))
    return torch.cat([*parts, embed(torch.tensor(config.prompt_ids[rates.task]))])


def losses_by_hand(
    model: MomeForSpeechRecognition, clip: dict[str, Tensor], labels: Tensor, rates: Rates, read: Tensor | None = None
):
    """Sum of the transcript's negative log-probabilities, and the layers' inputs ``(L, H)``."""
    given = sequence_by_hand(model, clip, rates)
    spoken = model.get_input_embeddings()((labels if read is None else read)[:-1])
    output = model.language_model(inputs_embeds=torch.cat([given, spoken])[None], output_hidden_states=True)
    log_probabilities = output.logits[0].log_softmax(-1)
    loss = sum(-log_probabilities[len(given) - 1 + i, label] for i, label in enumerate(labels))
    return loss, [hidden[0] for hidden in output.hidden_states[:-1]]


def balance_by_hand(model: MomeForSpeechRecognition, inputs: list[list[Tensor]]) -> Tensor:
    """Load-balancing loss of layer-placed banks, from all clips' layer inputs."""
    losses = []
    for layer, hidden in zip(model.language_model.model.layers, zip(*inputs, strict=True), strict=True):
        x = layer.input_layernorm(torch.cat(hidden))
        probabilities = (x @ layer.mome.router_weight.T).softmax(-1)
        experts, k = probabilities.shape[1], layer.mome.top_k
        counts = torch.bincount(probabilities.topk(k).indices.flatten(), minlength=experts)
        losses.append(experts * (counts / (k * len(x)) * probabilities.mean(0)).sum())
    return torch.stack(losses).mean()


def check_against_hand(model: MomeForSpeechRecognition, all_rates: list[Rates]) -> None:
    inputs = raw_inputs(CLIPS)
    output = model(**inputs, labels=LABELS, matryoshka=all_rates)
    rows = [row[row != IGNORED_LABEL] for row in LABELS]
    words = sum(len(row) for row in rows)
    losses, balance = [], []
    for rates in all_rates:
        hand = [losses_by_hand(model, one_clip(inputs, i), row, rates) for i, row in enumerate(rows)]
        losses.append(sum(loss for loss, _ in hand) / words)
        close(output.transcript_losses[str(rates)], losses[-1])
        if "layer" in str(model.config.adapter):
            balance.append(balance_by_hand(model, [hidden for _, hidden in hand]))
    expected = sum(losses) / len(losses)
    if balance:
        mean = sum(balance) / len(balance)
        close(output.balance_loss, mean)
        expected = expected + model.config.balance_weight * mean
    elif output.balance_loss is not None:
        expected = expected + model.config.balance_weight * output.balance_loss
    close(output.loss, expected)


@torch.no_grad()
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_loss_is_the_one_computed_by_hand(family, adapter):
    check_against_hand(shared_model(family, adapter), [Rates(4, 2), Rates(16, None), Rates(None, 5)])


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{"compression": "stack"}, {"projector_norm": True}, {"balance_weight": 2.0}], ids=str
)
def test_loss_by_hand_with_other_options(options):
    check_against_hand(make_model(**options), [Rates(4, 2), Rates(16, 5)])


@torch.no_grad()
def test_other_tokens_may_be_read_than_are_to_be_written():
    model, inputs, read = shared_model(*KINDS[0]), raw_inputs(CLIPS), LABELS.clone()
    read[:, 0] = (read[:, 0] + 1) % 7
    output = model(**inputs, labels=LABELS, read=read, matryoshka=[Rates(4, 2), Rates(16, None)])
    rows = [row[row != IGNORED_LABEL] for row in LABELS]
    for rates in (Rates(4, 2), Rates(16, None)):
        hand = [
            losses_by_hand(model, one_clip(inputs, i), row, rates, read[i, : len(row)])[0] for i, row in enumerate(rows)
        ]
        close(output.transcript_losses[str(rates)], sum(hand) / sum(map(len, rows)))
        assert output.transcript_losses[str(rates)] != model(**inputs, labels=LABELS, rates=rates).loss


@torch.no_grad()
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_at_first_the_adapted_model_is_the_frozen_one(family, adapter):
    torch.manual_seed(0)
    frozen = make_model(family, "none")
    adapted = MomeForSpeechRecognition(make_model(family, adapter).config)
    adapted.load_state_dict(frozen.state_dict(), strict=False)
    inputs = raw_inputs(CLIPS)
    for rates in ALL_RATES:
        actual, other = (m(**inputs, labels=LABELS, rates=rates).logits for m in (adapted, frozen))
        close(actual, other, 1e-6)
    if adapter != "none":
        trained = shared_model(family, adapter)(**inputs, labels=LABELS, rates=rates).logits
        assert (trained - other).abs().max() > 1e-2


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradients_reach_what_is_trained_and_nothing_else(adapter):
    model = make_model("llama", adapter)
    model.train()
    model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=ALL_RATES).loss.backward()
    trained = model.trained_state_dict()
    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
    assert with_gradient == set(trained)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(trained)
    assert all(value.grad.abs().sum() > 0 for value in model.parameters() if value.grad is not None)
    model.zero_grad()
    model(**raw_inputs(CLIPS), labels=LABELS, rates=Rates(16, None)).loss.backward()
    projected = {name for name, value in named_projectors(model) if value.grad is not None}
    assert projected == {name for name in trained if name.startswith("connector.audio.1.")}


def test_frozen_parts_stay_as_they_are_in_training():
    model, inputs = make_model(), raw_inputs(CLIPS)
    evaluated = model(**inputs, labels=LABELS, matryoshka=ALL_RATES)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k not in model.trained_state_dict()}
    assert any("running_mean" in name for name in frozen)
    model.train()
    trained = model(**inputs, labels=LABELS, matryoshka=ALL_RATES)
    assert torch.equal(trained.loss, evaluated.loss)  # no dropout, and no batch norm by batch
    torch.optim.SGD(model.parameters(), 0.1).step(lambda: trained.loss.backward())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    assert model(**inputs, labels=LABELS, matryoshka=ALL_RATES).loss < trained.loss


def test_the_adapters_own_dropout_is_on_in_training_alone():
    model, plain, inputs = make_model("llama", DROPPED), make_model("llama", "lora"), raw_inputs(CLIPS)

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(**inputs, labels=LABELS, rates=ALL_RATES[0]).loss

    evaluated = plain(**inputs, labels=LABELS, rates=ALL_RATES[0]).loss
    assert torch.equal(loss(1), evaluated)
    model.train()
    assert {name for name, module in model.language_model.named_modules() if module.training} == {
        name for name, _ in model.language_model.named_modules() if ".lora" in name
    }
    assert torch.equal(loss(1), loss(1))
    assert (loss(1) - loss(2)).abs() > 1e-4
    model.eval()
    assert torch.equal(loss(1), evaluated)


@contextmanager
def recomputations(model: MomeForSpeechRecognition) -> Iterator[list]:
    """Notes each time that the first layer's attention runs."""
    calls: list = []
    handle = model.language_model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


@pytest.mark.parametrize("adapter", ["layer", "attention", "ffn", "lora", DROPPED])
def test_gradient_checkpointing_changes_nothing(adapter):
    results = []
    for checkpointing in (False, True):
        model = make_model("llama", adapter)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        assert model.language_model.model.layers[0].training == checkpointing
        assert not model.language_model.model.layers[0].self_attn.training
        torch.manual_seed(0)
        with recomputations(model) as repeated:
            output = model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=ALL_RATES)
            output.loss.backward()
        passes = 4  # (4,2) is read with (4,-), and (16,5) with (16,-)
        assert len(repeated) == (2 if checkpointing else 1) * passes
        results.append((output.loss, {n: v.grad for n, v in model.named_parameters() if v.grad is not None}))
    (loss, gradients), (same, others) = results
    close(loss, same)
    assert gradients.keys() == others.keys()
    for name in gradients:
        close(gradients[name], others[name], 1e-5)


@torch.no_grad()
def test_bfloat16_runs_and_stays_near():
    inputs = raw_inputs(CLIPS)
    exact = make_model()(**inputs, labels=LABELS, rates=Rates(4, 2)).loss
    rough = make_model().to(torch.bfloat16)(**inputs, labels=LABELS, rates=Rates(4, 2))
    assert rough.logits.dtype == torch.bfloat16
    assert rough.loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_forward_says_what_it_lacks():
    model, inputs = shared_model(), raw_inputs(CLIPS)
    with pytest.raises(ValueError, match="needs labels"):
        model(**inputs, rates=Rates(4, 2))
    with pytest.raises(ValueError, match="needs rates"):
        model(**inputs, labels=LABELS)
    silent = {name: value for name, value in inputs.items() if name.startswith("pixel")}
    with pytest.raises(ValueError, match="no audio was given"):
        model(**silent, labels=LABELS, rates=Rates(4, 2))


def test_routing_is_the_mean_over_the_rates():
    model, inputs = make_model(), raw_inputs(CLIPS)
    together = model(**inputs, labels=LABELS, matryoshka=ALL_RATES).routing
    alone = [model(**inputs, labels=LABELS, rates=rates).routing for rates in ALL_RATES]
    assert together.keys() == alone[0].keys()
    for layer, statistics in together.items():
        close(statistics.load, torch.stack([each[layer].load for each in alone]).mean(0))
        close(statistics.entropy, sum(each[layer].entropy for each in alone) / len(ALL_RATES))
        assert not statistics.balance_loss.requires_grad
