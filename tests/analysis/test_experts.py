from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mome.adapters import ExpertBank, set_top_k
from mome.analysis.experts import MEASURES, agreement, analyze_experts, count_usage, rate_groups
from mome.analysis.passes import passes
from mome.decoding import Transcriber
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates
from tests.tiny import tiny_config

RATES = [Rates(4, 2), Rates(16, 5)]
whole_route = ExpertBank.route


def forced(expert: int, bank: ExpertBank, logits: torch.Tensor):
    return whole_route(bank, logits + 200 * torch.nn.functional.one_hot(torch.tensor(expert), logits.shape[-1]))


def loads(rates: int, layers: int, experts: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(experts), (rates, layers))


def test_a_router_forced_to_one_expert(transcriber, rows, monkeypatch):
    set_top_k(transcriber.model, 1)
    monkeypatch.setattr(ExpertBank, "route", lambda bank, logits, top_k: forced(3, bank, logits))
    used = count_usage(transcriber, rows, RATES, 2)
    assert list(used) == ["audio", "video", "prompt", "transcript", "all"]
    for usage in used.values():
        np.testing.assert_array_equal(usage.frequency, np.broadcast_to([0, 0, 0, 1], (2, 2, 4)))
        np.testing.assert_allclose(usage.load_entropy, 0)
        np.testing.assert_allclose(usage.entropy, 0, atol=1e-12)


def test_tokens_are_counted_by_kind(transcriber, rows):
    used = count_usage(transcriber, rows, RATES, 2)
    assert used["audio"].tokens.tolist() == [12 + 13 + 15, 3 + 3 + 3]
    assert used["video"].tokens.tolist() == [12 + 14 + 15, 5 + 5 + 6]
    assert used["transcript"].tokens.tolist() == [18, 18]  # six words each; the end token is not read
    assert used["all"].tokens.tolist() == [
        sum(used[kind].tokens[place] for kind in list(used)[:-1]) for place in (0, 1)
    ]
    for usage in used.values():
        np.testing.assert_allclose(usage.frequency.sum(-1), 2)  # the top k
        np.testing.assert_allclose(usage.load.sum(-1), 1)


def test_the_load_is_that_of_the_training_log(transcriber, rows):
    (read,) = passes(transcriber, rows, RATES[:1], 3)
    context = transcriber.model.adapter_context(read.inputs.rates, read.inputs.mask)
    transcriber.model.language_model(
        inputs_embeds=read.inputs.embeddings,
        attention_mask=read.inputs.mask.long(),
        position_ids=read.inputs.positions,
        adapter_context=context,
    )
    used = count_usage(transcriber, rows, RATES[:1], 2)["all"]
    for layer, statistics in context.routing.items():
        np.testing.assert_allclose(used.load[0, layer], statistics.load, atol=1e-6)
        assert used.entropy[0, layer] == pytest.approx(float(statistics.entropy), abs=1e-5)


def test_uniform_loads_have_the_entropy_of_all_experts(transcriber, rows):
    set_top_k(transcriber.model, 4)
    used = count_usage(transcriber, rows[:1], RATES[:1], 1)["all"]
    np.testing.assert_allclose(used.load_entropy, math.log(4))


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_rates_agree_fully(measure):
    same = np.broadcast_to(loads(1, 4, 8), (3, 4, 8))
    found = agreement(same, ["a", "b", "c"], 2, measure, (0,))
    np.testing.assert_allclose(found.pairs, np.ones((4, 3)))
    assert found.above_chance.all()
    assert (found.shuffled.mean(0) < 0.8).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_shuffled_routing_agrees_as_chance(measure):
    """In 2.5 % of layers the agreement is above chance by chance."""
    found = agreement(loads(3, 100, 12), ["a", "b", "c"], 3, measure, (0,))
    assert found.above_chance.mean() < 0.1
    assert found.pairs.mean() == pytest.approx(found.shuffled.mean(), abs=0.03)
    assert found.other_layers.mean() == pytest.approx(found.shuffled.mean(), abs=0.03)


def test_measures_are_those_of_their_names():
    load = loads(2, 1, 9, seed=4)
    one, other = load[:, 0]
    expected = {
        "rank correlation": spearmanr(one, other).statistic,
        "cosine": one @ other / np.linalg.norm(one) / np.linalg.norm(other),
        "overlap": len({*np.argsort(one)[-4:]} & {*np.argsort(other)[-4:]})
        / len({*np.argsort(one)[-4:]} | {*np.argsort(other)[-4:]}),
    }
    for measure in MEASURES:
        assert agreement(load, [0, 1], 4, measure, (0,)).pairs.item() == pytest.approx(expected[measure])


def test_the_chance_of_an_overlap_is_that_of_drawn_sets():
    """Two of six experts: the sets share 0, 1 or 2 with the odds 6, 8 and 1 of 15."""
    found = agreement(loads(2, 3, 6), [0, 1], 2, "overlap", (0,))
    assert found.shuffled.mean() == pytest.approx(8 / 15 / 3 + 1 / 15, abs=0.02)


def test_the_seed_draws_the_chance():
    once, again, other = (agreement(loads(2, 2, 6), [0, 1], 2, "cosine", (seed,)).shuffled for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_rates_of_one_group_are_not_compared_and_renamed_alike():
    load = np.repeat(loads(2, 3, 6), 2, axis=0)
    grouped = agreement(load, ["a", "a", "b", "b"], 2, "cosine", (0,))
    alone = agreement(load[::2], ["a", "b"], 2, "cosine", (0,))
    np.testing.assert_allclose(grouped.pairs, np.repeat(alone.pairs, 4, axis=1))
    np.testing.assert_allclose(grouped.shuffled, alone.shuffled)
    rates = [Rates(4, 2), Rates(4, 5), Rates(16, None)]
    assert rate_groups(rates, "audio") == [4, 4, 16]
    assert len(set(rate_groups(rates, "transcript"))) == 3


def test_other_layers():
    load = np.zeros((2, 3, 4))
    load[:, 0, 0] = load[:, 1, 0] = load[:, 2, 1] = 1  # the first two layers use one expert, the last another
    found = agreement(load, [0, 1], 1, "cosine", (0,))
    assert found.other_layers.tolist() == [0.5, 0.5, 0]
    assert np.isnan(agreement(load[:, :1], [0, 1], 1, "cosine", (0,)).other_layers).all()


def test_rates_with_routers_of_their_own(transcriber, rows):
    config = tiny_config(transcriber.processor.tokenizer)
    config.adapter = {**config.adapter, "routers": "rates"}
    model = MomeForSpeechRecognition(config)
    for bank in (module for module in model.modules() if isinstance(module, ExpertBank)):
        bank.routers.data.copy_(bank.routers.data[:1].expand_as(bank.routers))
        bank.routers.data[config.adapter_group(RATES[1])].neg_()
    own = Transcriber(model, transcriber.processor)
    own.load_clip = transcriber.load_clip
    used = count_usage(own, rows, [RATES[0], RATES[1]], 2)["prompt"]
    # Prompt tokens are the same at both rates in the first layer, and the two likeliest of four experts at one rate are
    # the two least likely at the other.
    first, second = used.frequency[:, 0]
    assert first + second == pytest.approx(np.ones(4))


def test_findings(transcriber, rows):
    found = analyze_experts(transcriber, rows, RATES, batch_size=2)
    assert {entry["kind"] for entry in found.document["agreement"]} == {"audio", "video", "prompt", "transcript", "all"}
    assert all(entry["rate_pairs"] == 1 and len(entry["layers"]) == 2 for entry in found.document["agreement"])
    assert set(found.figures) < set(found.tables)
    rows_ = found.tables["experts-audio"].rows
    assert len(rows_) == 2 * 2 * 4
    assert sum(row[4] for row in rows_) == pytest.approx(2 * 2 * 2)
    one = analyze_experts(transcriber, rows[:1], RATES[:1])
    assert one.document["agreement"] == []
    assert "agreement" not in one.figures


def test_a_model_without_experts(transcriber, rows):
    config = tiny_config(transcriber.processor.tokenizer)
    config.adapter = {"type": "lora", "bottleneck": 2}
    plain = Transcriber(MomeForSpeechRecognition(config), transcriber.processor, "plain")
    with pytest.raises(MomeError, match="plain has a lora adapter, so there are no experts"):
        analyze_experts(plain, rows, RATES)
