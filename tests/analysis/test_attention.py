from __future__ import annotations

import numpy as np
import pytest
import torch

from mome.analysis.attention import ATTENDED, FIRST, QUERIES, attend, attention_findings
from mome.analysis.passes import passes
from mome.model.sequence import KINDS
from mome.rates import Rates

RATES = [Rates(4, 2), Rates(16, None)]


def test_shares_sum_to_one(transcriber, rows):
    before = transcriber.model.language_model.config._attn_implementation
    found = attend(transcriber, rows, RATES, 2)
    for one in found.values():
        np.testing.assert_allclose(one.share.sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(one.uniform_share.sum(-1), 1)
        assert one.clips == 3
    assert found[RATES[1]].share[..., ATTENDED.index("video")].max() == 0
    assert transcriber.model.language_model.config._attn_implementation == before


def test_uniform_attention_goes_to_tokens_by_their_number(transcriber, rows):
    for layer in transcriber.model.language_model.get_decoder().layers:
        layer.self_attn.q_proj.weight.data.zero_()
    (found,) = attend(transcriber, rows[:1], RATES[:1]).values()
    kinds = [FIRST] + ["audio"] * 12 + ["video"] * 12
    kinds += ["prompt"] * len(transcriber.model.config.text_ids("avsr")) + ["transcript"] * 6
    queries = {"transcript": range(len(kinds) - 6, len(kinds)), "all": range(len(kinds))}
    for query, positions in queries.items():
        for kind in ATTENDED:
            expected = np.mean([kinds[: position + 1].count(kind) / (position + 1) for position in positions])
            place = QUERIES.index(query), ATTENDED.index(kind)
            assert found.uniform_share[place] == pytest.approx(expected)
            np.testing.assert_allclose(found.share[:, *place], expected, atol=1e-5)


def test_attention_is_that_of_the_model(transcriber, rows):
    transcriber.model.language_model.set_attn_implementation("eager")
    (read,) = passes(transcriber, rows[:1], RATES[:1], 1)
    output = transcriber.model.language_model(
        inputs_embeds=read.inputs.embeddings, output_attentions=True, output_hidden_states=True
    )
    (found,) = attend(transcriber, rows[:1], RATES[:1]).values()
    audio = read.inputs.kinds[0] == KINDS.index("audio")
    for layer, weights in enumerate(output.attentions):
        expected = float(weights[0, :, -6:, audio].sum(-1).mean().detach())
        assert found.share[layer, 0, ATTENDED.index("audio")] == pytest.approx(expected, abs=1e-5)
    states = output.hidden_states[1][0].detach()
    cosines = torch.nn.functional.cosine_similarity(states[1:-6], states[:1]).square()
    expected = [float(cosines.mean()), float(states[0].abs().max()), float(states[1:].abs().max())]
    assert found.sink[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_findings_of_two_models(transcriber, rows):
    found = attend(transcriber, rows, RATES, 2)
    findings = attention_findings({"one": found, "folder/two": found})
    runs = findings.document["models"]
    assert [(run["model"], run["rates"]) for run in runs] == [
        (model, rates) for model in ("one", "folder/two") for rates in ("4,2", "16,-")
    ]
    assert runs[0]["layers"] == runs[2]["layers"]
    assert sum(runs[1]["layers"][1]["attention"]["all"].values()) == pytest.approx(1, abs=1e-6)
    assert findings.tables["attention"].columns[4:] == ("audio", "video", "prompt", "transcript", "first")
    assert len(findings.tables["attention"].rows) == 4 * 2 * 3
    assert len(findings.tables["sinks"].rows) == 4 * 2
