"""What connectors and grouped adapters cost, against PyTorch's counter and formulas of their own."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from mome.config import MomeConfig
from mome.model import MomeForSpeechRecognition
from mome.model.cost import inference_cost, parameter_counts
from mome.model.model import EncodedClips
from mome.model.sequence import count_tokens
from mome.rates import Rates
from mome.text.transcript import Tokens
from tests.model.build import ALL_RATES, CONNECTORS, connector_model, make_config, make_model
from tests.model.test_cost import features, flops, generation_flops
from tests.model.test_groups import GROUPED, group_of, looked_at, new_model

every = pytest.mark.parametrize("connector", CONNECTORS)


@functools.cache
def untrained(connector: str) -> MomeForSpeechRecognition:
    """All speech is normally fast for it; PyTorch's counter stumbles over views of what has a gradient."""
    model = make_model("llama", "none", **CONNECTORS[connector]).requires_grad_(False)
    if connector == "qformer-speech":
        model.connector.predictor.reset_parameters()
    return model


def connector_operations(config: MomeConfig, rates: Rates, audio: int, video: int, fed: Tokens | None = None) -> int:
    return inference_cost(config, rates, audio, video, 1, fed=fed).projectors


def encoded(model: MomeForSpeechRecognition, rates: Rates, audio: int, video: int) -> EncodedClips:
    width = model.config.audio_config.d_model
    return EncodedClips(
        None if rates.audio is None else features(audio, width),
        None if rates.video is None else features(video, 32),
    )


@every
@pytest.mark.parametrize(("audio", "video"), [(37, 19), (200, 100), (331, 166)])
def test_operations(connector, audio, video):
    model = untrained(connector)
    for rates in ALL_RATES:
        clips = encoded(model, rates, audio, video)
        counted = flops(lambda clips=clips, rates=rates: model.connect(clips, [rates]))
        assert counted > 0
        expected = connector_operations(model.config, rates, audio, video)
        assert expected == pytest.approx(counted, rel=0.01), rates


@pytest.mark.parametrize("speech_rate", [1.0, 1.37, 1.5, 2.0])
@pytest.mark.parametrize(("audio", "video"), [(37, 19), (200, 100), (331, 166), (800, 400)])
def test_operations_at_a_speech_rate(monkeypatch, speech_rate, audio, video):
    # Queries enough that no clip needs them all: their number tells the speech rate.
    connector = {**CONNECTORS["qformer-speech"]["connector"], "longest": 40}
    model, rates = make_model("llama", "none", connector=connector).requires_grad_(False), Rates(4, 2)
    model.connector.predictor.reset_parameters()
    normal = connector_operations(model.config, rates, audio, video)
    predictor = model.connector.predictor
    monkeypatch.setattr(predictor.head.bias, "data", torch.tensor([speech_rate]))
    clips = encoded(model, rates, audio, video)
    (tokens,) = model.prepare(clips, [rates]).counts
    expected = connector_operations(model.config, rates, audio, video, tokens)
    assert expected == pytest.approx(flops(lambda: model.connect(clips, [rates])), rel=0.01)
    assert (expected > normal) == (tokens.fused > count_tokens(model.config, rates, audio, video).fused)
    # The predictor hides what depends on the rate, which is known to one query only: to much in a clip of few.
    known, lengths = clips.audio.frames[:, : 2 * video], clips.audio.lengths.clamp(max=2 * video)
    aside = flops(lambda: predictor(known, lengths))
    counted = flops(lambda: model.connect(clips, [rates])) - aside
    config = copy.deepcopy(model.config)
    config.connector["speech_rate"] = False
    without = connector_operations(config, rates, audio, video, tokens)
    assert without == pytest.approx(counted, rel=0.25 if tokens.fused < 10 else 0.015)


@every
def test_a_whole_transcription(connector):
    model = untrained(connector)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
    for rates in (Rates(4, 2), Rates(16, 5), Rates(16, None)):
        given = {"encoded": encoded(model, rates, 90, 45), "rates": rates}
        counted = flops(lambda given=given: model.generate(**given, **options))
        cost = inference_cost(model.config, rates, 90, 45, new_tokens=5)
        assert cost.projectors + cost.prefill + cost.decode == pytest.approx(counted, rel=0.01), rates


def projector(width: int, norm: bool = False) -> int:
    """20 hidden units, 32 outputs."""
    return (width * 20 + 20) + (20 * 32 + 32) + 2 * 32 * norm


def linear(width: int, out: int) -> int:
    return width * out + out


def resampler(width: int) -> int:
    """12 queries, the four products of attention, three LayerNorms, the way out."""
    return 12 * width + 4 * linear(width, width) + 3 * 2 * width + width * 32


def qformer() -> int:
    fusion, queries = 24 * 24 * 2 + 24, 20 * 16
    attention = 4 * linear(16, 16) + 2 * 16
    cross = 2 * linear(16, 16) + 2 * linear(24 + 32, 16) + 2 * 16
    inner = linear(16, 24) + linear(24, 16) + 2 * 16
    return fusion + queries + 2 * 16 + 2 * (attention + cross + inner) + linear(16, 24) + linear(24, 32)


def predictor() -> int:
    """Token, entry, weight-normalised convolution of 16 groups, two layers, LayerNorm, head."""
    convolution = 256 * (256 // 16) * 128 + 128 + 256
    layer = 4 * linear(256, 256) + linear(256, 1024) + linear(1024, 256) + 2 * 2 * 256
    return 256 + linear(24, 256) + convolution + 2 * layer + 2 * 256 + linear(256, 1)


def by_formula(connector: str) -> tuple[int, int]:
    """Total and active."""
    both = projector(24) + projector(32)
    return {
        "projectors": (2 * both, both),
        "shared": (both, both),
        "shared-norm": (both + 4 * 32, both + 4 * 32),
        "mixture-joint": (4 * 32 + 4 * projector(32), 4 * 32 + 2 * projector(32)),
        "mixture-experts": (8 * 32 + 4 * projector(32, norm=True), 8 * 32 + 2 * projector(32, norm=True)),
        "mixture-none": (4 * (24 + 32) + 4 * both, 4 * (24 + 32) + 2 * both),
        "resampler": (resampler(24) + resampler(32),) * 2,
        "qformer": (qformer(),) * 2,
        "qformer-speech": (qformer() + predictor(),) * 2,
    }[connector]


@every
def test_parameters(connector):
    model = connector_model(connector)
    counts = parameter_counts(model.config)
    assert (counts.projectors_total, counts.projectors_active) == by_formula(connector)
    assert counts.projectors_total == sum(value.numel() for value in model.connector.parameters())
    assert counts.frozen == sum(value.numel() for part in model.backbones() for value in part.parameters())
    assert counts.adapter_total == counts.adapter_active == 0


def test_of_stacking_projectors_the_largest_is_active():
    counts = parameter_counts(make_config(adapter="none", compression="stack"))
    assert counts.projectors_total == sum(projector(width) for width in (4 * 24, 16 * 24, 2 * 32, 5 * 32))
    assert counts.projectors_active == projector(16 * 24) + projector(5 * 32)


@pytest.mark.parametrize("kind", GROUPED)
def test_of_grouped_adapters_one_group_is_active(kind):
    """Three layers; query and value projections are 32 to 32 and 32 to 16; rank 2."""
    one = 3 * 2 * ((32 + 32) + (32 + 16))
    groups, shared = (3 if kind.endswith("tasks") else 8), kind.startswith("MSS")
    counts = parameter_counts(looked_at(kind).config)
    assert counts.adapter_total == (shared + groups) * one
    assert counts.adapter_active == (shared + 1) * one


@pytest.mark.parametrize("kind", GROUPED)
def test_operations_of_grouped_adapters(kind):
    model, frozen = looked_at(kind), make_model("llama", "none")
    for rates in (Rates(4, 2), Rates(16, None)):
        added = generation_flops(model, rates) - generation_flops(frozen, rates)
        cost = inference_cost(model.config, rates, 37, 19, new_tokens=6)
        assert cost.adapters == pytest.approx(added, rel=0.01)


def test_the_cost_of_a_group_is_that_of_any_other():
    model = new_model("S-tasks")
    costs = {
        group_of("S-tasks", rates): inference_cost(model.config, rates, 64, 32, 1, fed=Tokens(10, 7, 3))
        for rates in ALL_RATES
    }
    assert len(costs) == 3
    assert len({cost.adapters for cost in costs.values()}) == 1
    assert all(cost.adapters > 0 for cost in costs.values())
