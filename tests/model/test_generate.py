from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from mome import MomeForSpeechRecognition
from mome.rates import Rates
from tests.model.build import END, KINDS, PAD, START, VOCABULARY, make_model, one_clip, raw_inputs, shared_model

CLIPS = [(133, 34), (64, 16)]


def greedy_by_hand(model, clip, rates, longest: int) -> list[int]:
    """Argmax after argmax, the whole sequence read anew each time."""
    given = model.prepare(model.encode(**clip), [rates]).embeddings
    ids: list[int] = []
    while len(ids) < longest and END not in ids:
        spoken = model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))
        logits = model.language_model(inputs_embeds=torch.cat([given, spoken], 1), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids


@torch.no_grad()
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_greedy_is_argmax_after_argmax(family, adapter):
    model, inputs = shared_model(family, adapter), raw_inputs(CLIPS)
    for rates in (Rates(4, 2), Rates(16, None), Rates(None, 5)):
        for index in range(len(CLIPS)):
            clip = one_clip(inputs, index)
            ids = model.generate(**clip, rates=rates, max_new_tokens=7, do_sample=False)[0].tolist()
            assert ids == greedy_by_hand(model, clip, rates, 7)


@torch.no_grad()
def test_what_is_heard_and_seen_and_the_rates_matter():
    model, inputs = shared_model(), raw_inputs(CLIPS)
    written = {
        str(rates): model.generate(**one_clip(inputs, 0), rates=rates, max_new_tokens=5, do_sample=False)[0].tolist()
        for rates in (Rates(4, 2), Rates(16, 2), Rates(4, 5), Rates(4, None), Rates(None, 2))
    }
    assert len({tuple(ids) for ids in written.values()}) == len(written)
    other = model.generate(**one_clip(raw_inputs(CLIPS, seed=4), 0), rates=Rates(4, 2), max_new_tokens=5)
    assert other[0].tolist() != written["4,2"]


@torch.no_grad()
def test_a_transcript_ends_at_the_end_token():
    model, inputs = shared_model(), raw_inputs(CLIPS)
    greedy = model.generate(**inputs, rates=Rates(4, 2), max_new_tokens=6, do_sample=False)
    stop = int(greedy[0, 2])
    ended = model.generate(**inputs, rates=Rates(4, 2), max_new_tokens=6, do_sample=False, eos_token_id=stop)
    expected = greedy[0, : greedy[0].tolist().index(stop) + 1].tolist()
    assert ended[0, : len(expected)].tolist() == expected
    assert not ended[0, len(expected) :].any()  # padding


@torch.no_grad()
def test_sampling():
    model, inputs = shared_model(), raw_inputs(CLIPS)
    options = {"rates": [Rates(4, 2), Rates(None, 5)], "max_new_tokens": 6, "min_new_tokens": 6}
    greedy = model.generate(**inputs, **options, do_sample=False)
    assert model.generate(**inputs, **options, do_sample=True, top_k=1).tolist() == greedy.tolist()

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.generate(**inputs, **options, do_sample=True, top_k=0, temperature=2.0, num_return_sequences=3)

    drawn = sample(0)
    assert drawn.shape == (6, 6)
    assert ((drawn >= 0) & (drawn < VOCABULARY)).all()
    assert len({tuple(row) for row in drawn.tolist()}) > 1
    assert torch.equal(drawn, sample(0))
    assert not torch.equal(drawn, sample(1))


@torch.no_grad()
def test_sampled_beams_and_scores():
    torch.manual_seed(0)
    model, inputs = shared_model(), raw_inputs(CLIPS)
    result = model.generate(
        **inputs,
        rates=Rates(4, 2),
        num_beams=3,
        do_sample=True,
        temperature=0.6,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert len(result.sequences) == len(CLIPS)
    assert (result.sequences_scores <= 0).all()


CHAT = {"do_sample": True, "temperature": 3.0, "top_k": 0, "repetition_penalty": 2.0, "num_beams": 2}


@torch.no_grad()
def test_a_language_models_own_settings_do_not_count(tmp_path, recwarn, caplog):
    """Referred to or stored, it decodes the same: by the recogniser's settings."""
    model, options = make_model(generation={"num_beams": 3}), {"rates": Rates(4, 2), "max_new_tokens": 6}
    stored, referred, backbone = (tmp_path / name for name in ("stored", "referred", "backbone"))
    model.save_pretrained(stored)
    AutoModelForCausalLM.from_pretrained(stored / "language_model").save_pretrained(backbone)
    GenerationConfig(**CHAT, bos_token_id=START, eos_token_id=[END], pad_token_id=PAD).save_pretrained(backbone)
    model.save_pretrained(referred)
    settings = json.loads((referred / "config.json").read_text())
    (referred / "config.json").write_text(json.dumps({**settings, "language_model": str(backbone)}))
    recwarn.clear()
    caplog.clear()
    inputs = raw_inputs(CLIPS)
    beams = model.generate(**inputs, **options, num_beams=3, do_sample=False).tolist()
    greedy = model.generate(**inputs, **options, num_beams=1).tolist()
    assert beams != greedy
    for folder in (stored, referred):
        loaded = MomeForSpeechRecognition.from_pretrained(folder)
        assert loaded.generate(**inputs, **options).tolist() == beams
        assert loaded.generate(**inputs, **options, num_beams=1).tolist() == greedy
        one = GenerationConfig(num_beams=1, max_new_tokens=6)
        assert loaded.generate(**inputs, rates=Rates(4, 2), generation_config=one).tolist() == greedy
    assert loaded.language_model.generation_config.eos_token_id == [END]
    assert not [str(warning.message) for warning in recwarn if "temperature" in str(warning.message)]
    assert "temperature" not in caplog.text


@torch.no_grad()
def test_settings_of_the_language_model_changed_later_do_not_sample():
    model, inputs = make_model(), raw_inputs(CLIPS)
    options = {"rates": Rates(4, 2), "max_new_tokens": 6}
    expected = model.generate(**inputs, **options).tolist()
    settings = model.language_model.generation_config
    settings.do_sample, settings.temperature, settings.top_p = True, 3.0, 0.9
    assert model.generate(**inputs, **options).tolist() == expected


@torch.no_grad()
def test_the_recipes_temperature_counts_where_sampling_is_asked_for(recwarn):
    model, inputs = make_model(generation={"num_beams": 3, "temperature": 5.0, "top_p": 0.9}), raw_inputs(CLIPS)
    options = {"rates": Rates(4, 2), "max_new_tokens": 6}
    plain = make_model(generation={"num_beams": 3}).generate(**inputs, **options).tolist()
    assert model.generate(**inputs, **options).tolist() == plain
    assert not [one for one in recwarn if "temperature" in str(one.message) or "top_p" in str(one.message)]

    def sampled(**more) -> list:
        torch.manual_seed(0)
        return model.generate(**inputs, **options, do_sample=True, **more).tolist()

    assert sampled() == sampled(temperature=5.0, top_p=0.9) != sampled(temperature=0.1)
    assert sampled(top_p=0.01) == model.generate(**inputs, **options, do_sample=True, top_k=1).tolist()


def test_generate_says_what_it_lacks():
    model, inputs = shared_model(), raw_inputs(CLIPS)
    with pytest.raises(ValueError, match="needs rates"):
        model.generate(**inputs)
    sound_only = {name: value for name, value in inputs.items() if name.startswith("input")}
    with pytest.raises(ValueError, match="no video was given"):
        model.generate(**sound_only, rates=Rates(4, 2))


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_each_clip_has_its_own_limit_of_tokens(beams):
    model, inputs = shared_model(), raw_inputs(CLIPS)
    ends = {"eos_token_id": [END, START]}
    options = {**ends, "rates": Rates(4, 2), "max_new_tokens": 6, "min_new_tokens": 6, "num_beams": beams}
    free = model.generate(**inputs, **options)
    assert free.shape[1] == 6
    limited = model.generate(**inputs, **options, most_tokens=[3, 6], max_tokens_per_second=0.1)
    assert [END in row for row in (limited[0, :2], limited[0, 2:3], limited[1, :5])] == [False, True, False]
    assert set(limited[0, 3:].tolist()) <= {END, PAD}
    assert limited[1, 5] == END
    if beams == 1:
        assert limited[0, :2].tolist() == free[0, :2].tolist()
        assert limited[1, :5].tolist() == free[1, :5].tolist()
