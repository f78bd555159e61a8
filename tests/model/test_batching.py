"""A clip's result does not depend on what it is batched with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates
from tests.model.build import ALL_RATES, KINDS, make_model, one_clip, raw_inputs, shared_model, transcripts

MIXED = [
    ((133, 34), Rates(4, 2), 5),
    ((64, 16), Rates(16, None), 2),
    ((80, 21), Rates(None, 5), 7),
    ((96, 9), Rates(16, 5), 1),
]
NEW = {"max_new_tokens": 6, "do_sample": False}


@torch.no_grad()
def check(model, clips) -> None:
    """``clips``: lengths of both streams, rates and transcript length of each."""
    lengths, rates, words = zip(*clips, strict=True)
    inputs, labels = raw_inputs(list(lengths)), transcripts(list(words))
    together = model(**inputs, labels=labels, rates=list(rates))
    written = model.generate(**inputs, rates=list(rates), **NEW)
    losses = []
    for index, rate in enumerate(rates):
        clip, row = one_clip(inputs, index), labels[index : index + 1, : words[index]]
        alone = model(**clip, labels=row, rates=rate)
        losses.append(alone.transcript_losses[str(rate)] * words[index])
        actual = together.logits[index, : words[index]]
        torch.testing.assert_close(actual, alone.logits[0], atol=2e-4, rtol=0)
        same = model.generate(**clip, rates=rate, **NEW)[0]
        assert written[index, : len(same)].tolist() == same.tolist()
        assert (written[index, len(same) :] == model.config.text_config.pad_token_id).all()
    expected = torch.stack(losses).sum() / (labels != IGNORED_LABEL).sum()
    torch.testing.assert_close(next(iter(together.transcript_losses.values())), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_every_kind_of_model(family, adapter):
    check(shared_model(family, adapter), MIXED)


@pytest.mark.parametrize(
    "options", [{"compression": "stack"}, {"audio_context": "window"}, {"audio_context": "clip+silence"}], ids=str
)
def test_other_options(options):
    clips = MIXED if "compression" in options else [((400, frames), *rest) for (_, frames), *rest in MIXED]
    check(make_model(**options), clips)


clip = st.tuples(st.tuples(st.integers(32, 160), st.integers(5, 40)), st.sampled_from(ALL_RATES), st.integers(1, 6))


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.lists(clip, min_size=2, max_size=4))
def test_any_lengths_and_rates(clips):
    check(shared_model(), clips)


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["layer", "lora"])
def test_beams_do_not_mix_clips(adapter):
    model, (lengths, rates, _) = shared_model("llama", adapter), zip(*MIXED, strict=True)
    inputs = raw_inputs(list(lengths))
    options = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_new_tokens": 5,
        "do_sample": False,
        "length_penalty": 0.5,
    }
    together = model.generate(**inputs, rates=list(rates), **options)
    assert together.shape[0] == 2 * len(rates)
    for index, rate in enumerate(rates):
        alone = model.generate(**one_clip(inputs, index), rates=rate, **options)
        assert together[2 * index : 2 * index + 2, : alone.shape[1]].tolist() == alone.tolist()
    best = together[::2].tolist()
    assert best != model.generate(**inputs, rates=list(rates), max_new_tokens=5, do_sample=False).tolist()
    assert len({tuple(row) for row in best}) == len(best)
