from __future__ import annotations

import numpy as np
import pytest
import torch

import mome
from mome import Rates
from mome.clip import Clip
from mome.model.scoring import score
from mome.model.sequence import token_places
from mome.text.transcript import Tokens

RATES = [Rates(4, 2), Rates(16, None), Rates(None, 5)]


@pytest.fixture(scope="module")
def transcriber(tiny_model):
    return mome.load(tiny_model)


def clip(frames: int, seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    sound = (0.1 * rng.standard_normal(640 * frames)).astype(np.float32)
    return Clip(sound, rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8), frames / 25, None, ())


def prepare(transcriber, clips, rates):
    with torch.no_grad():
        return transcriber.model.prepare(transcriber.model.encode(**transcriber.processor(clips)), rates)


def places(transcriber, prepared):
    found = [token_places(transcriber.model.config, counts) for counts in prepared.counts]
    return [place.get("audio", place.get("video")) for place in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "length_penalty": 0.5},
        {"do_sample": True, "top_k": 5, "temperature": 3.0},
        {"repetition_penalty": 5.0, "min_new_tokens": 5},
        {"most_tokens": [3, 4, 5]},
    ],
)
def test_log_probabilities_are_those_of_the_steps_that_wrote_it(transcriber, options):
    torch.manual_seed(0)
    prepared = prepare(transcriber, [clip(25, 0), clip(18, 1), clip(30, 2)], RATES)
    given = {"max_new_tokens": 6, "eos_token_id": 2, "pad_token_id": 0, **options}
    out = transcriber.model.generate(
        prepared=prepared, return_dict_in_generate=True, output_logits=True, output_scores=True, **given
    )
    logits = torch.stack(out.logits, 1).log_softmax(-1)  # of each step and row, before anything is done with them
    rows = torch.arange(3)[:, None].expand(out.sequences.shape)
    if "num_beams" in options:
        rows = out.beam_indices[:, : out.sequences.shape[1]].clamp(min=0)
    steps = torch.arange(out.sequences.shape[1]).expand(out.sequences.shape)
    expected = logits[rows, steps, out.sequences]
    scores = score(transcriber.model, prepared, out.sequences, places(transcriber, prepared))
    for index, row in enumerate(out.sequences.tolist()):
        count = row.index(2) + 1 if 2 in row else len(row)
        torch.testing.assert_close(scores.logprobs[index, :count], expected[index, :count], atol=2e-4, rtol=0)
    assert (scores.logprobs <= 0).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_is_that_of_the_language_model(tiny_model, implementation):
    transcriber = mome.load(tiny_model, attn_implementation=implementation)
    prepared = prepare(transcriber, [clip(25, 0), clip(18, 1), clip(30, 2)], RATES)
    ids = torch.tensor([[5, 6, 7, 2], [8, 2, 0, 0], [9, 10, 11, 12]])
    where = places(transcriber, prepared)
    scores = score(transcriber.model, prepared, ids, where)
    model = transcriber.model.language_model
    model.set_attn_implementation("eager")
    embeddings = torch.cat([prepared.embeddings, model.get_input_embeddings()(ids[:, :3])], 1)
    mask = torch.cat([prepared.mask, torch.ones(3, 3, dtype=torch.bool)], 1)
    with torch.no_grad():
        weights = model(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_attentions=True,
        ).attentions
    length = prepared.embeddings.shape[1]
    for index, (counts, place) in enumerate(zip(prepared.counts, where, strict=True)):
        first = length - counts.total
        own = torch.cat([layer[index, :, length - 1 :, first + place.start : first + place.stop] for layer in weights])
        expected = own / own.sum(-1, keepdim=True)
        assert scores.attention[index].shape == (8, 4, place.stop - place.start)
        torch.testing.assert_close(scores.attention[index], expected, atol=1e-4, rtol=0)


def test_places_of_tokens(tiny_model):
    config = mome.load(tiny_model).model.config
    assert token_places(config, Tokens(6, 5, 9)) == {"audio": slice(1, 7), "video": slice(7, 12)}
    config.audio_markers, config.video_markers = [3, 4], [5, 6]
    assert token_places(config, Tokens(6, 5, 9)) == {"audio": slice(2, 8), "video": slice(10, 15)}
    assert token_places(config, Tokens(0, 5, 9)) == {"video": slice(2, 7)}
    assert token_places(config, Tokens(0, 0, 9, 4)) == {"fused": slice(1, 5)}
