"""Our beam search against Transformers' own: the same hypotheses, scores and n-best, with less to keep and to read."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mome.adapters import (
    AdapterContext,
    LoraAdapterConfig,
    MomeAdapterConfig,
    attach,
    use_context,
)
from mome.model import beam_search, shared_prefix
from mome.model.beam_search import generate
from mome.model.limit import TokenLimit
from mome.model.linear import OneDnnLinear
from mome.model.sequence import LanguageInputs
from mome.model.shared_prefix import LANGUAGE_MODELS, shares_prefix
from mome.rates import Rates
from tests.adapters.tiny import randomize

from .build import make_model, raw_inputs

VOCABULARY, WIDTH = 47, 32
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BATCH = (11, 4, 7, 23)  # positions before the transcript
ENDS = {"eos_token_id": [2, 5, 9, 17]}  # hypotheses end at many lengths
WHOLE = {"return_dict_in_generate": True, "output_scores": True}


@functools.cache
def language_model(seed: int = 0, kind: str = "llama", **options: Any) -> Any:
    """A random model whose next tokens depend on what was written."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SIZES, **options})).eval()
    for name, value in model.named_parameters():
        if value.dim() > 1:
            value.data.normal_(std=(1 if "embed" in name else 1.5 * value.shape[-1] ** -0.5))
    return model


def clips(lengths: tuple[int, ...] = BATCH, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageInputs:
    """Random embeddings, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    offset = torch.arange(longest) - (longest - torch.tensor(lengths)[:, None])
    embeddings = torch.randn(len(lengths), longest, WIDTH, generator=generator).to(dtype)
    return LanguageInputs(embeddings, offset >= 0, offset.clamp(min=0), [], [], offset)


def theirs(model: Any, inputs: LanguageInputs, **options: Any) -> Any:
    return model.generate(inputs_embeds=inputs.embeddings, attention_mask=inputs.mask.long(), **options)


def check(model: Any, inputs: LanguageInputs, **options: Any) -> Any:
    """Assert that both searches give the same, and return it."""
    options = {"max_new_tokens": 12, **WHOLE, **options}
    with torch.no_grad():
        expected = theirs(model, inputs, **options)
    assert beam_search._covers(model, options)
    found = generate(model, inputs, options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert torch.equal(found.beam_indices, expected.beam_indices)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=0, atol=1e-4)
    return found


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 5, 15])
def test_hypotheses_scores_and_order_are_those_of_transformers(beams, length_penalty, early_stopping):
    options = {"num_beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping, **ENDS}
    lengths = set()
    for seed in (0, 1):
        for inputs in (clips(), clips((9,), seed=seed)):
            found = check(language_model(seed), inputs, **options, num_return_sequences=beams)
            lengths |= set((found.beam_indices >= 0).sum(1).tolist())
    assert length_penalty > 1 or len(lengths) > 3, "hypotheses end at different lengths"


class Shout(LogitsProcessor):
    """Changes the scores that it is given, by what was written."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 7] += 0.1 * input_ids.shape[1]
        return scores


class Twice(StoppingCriteria):
    """Ends what has written 11 twice."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return (input_ids == 11).sum(1) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": 2, "pad_token_id": 3},
        {**ENDS, "max_new_tokens": 1},
        {**ENDS, "min_new_tokens": 6},
        {**ENDS, "min_new_tokens": 12, "num_return_sequences": 3},
        {**ENDS, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {**ENDS, "renormalize_logits": True, "temperature": 3.0, "top_p": 0.5, "top_k": 2},
        {**ENDS, "logits_processor": [TokenLimit([3, 1, 12, 7], 2)], "num_return_sequences": 2},
        {**ENDS, "logits_processor": [Shout()], "stopping_criteria": [Twice()]},
        {"generation_config": GenerationConfig(num_beams=4, max_new_tokens=7, eos_token_id=5, length_penalty=0.3)},
        {"max_new_tokens": 40, "min_new_tokens": 40},
    ],
    ids=lambda options: "-".join(name for name in options if name != "eos_token_id"),
)
def test_options_processors_and_criteria_do_what_they_do_in_transformers(options):
    check(language_model(), clips(), **{"num_beams": 4, **options})


def test_without_an_end_or_a_padding_token():
    model = language_model(1, pad_token_id=None, eos_token_id=None)
    check(model, clips((5, 8)), num_beams=3, num_return_sequences=3)
    check(model, clips((5, 8)), num_beams=3, pad_token_id=4)


def test_ids_alone_and_logits_are_returned_as_transformers_does():
    model, inputs, options = language_model(), clips(), {"num_beams": 3, "max_new_tokens": 8, **ENDS}
    assert torch.equal(generate(model, inputs, options), theirs(model, inputs, **options))
    options |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    found, expected = generate(model, inputs, options), theirs(model, inputs, **options)
    for name in ("scores", "logits"):
        for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    transitions = [
        model.compute_transition_scores(one.sequences, one.scores, one.beam_indices) for one in (found, expected)
    ]
    torch.testing.assert_close(*transitions, rtol=0, atol=1e-4)


def test_one_beam_is_greedy():
    model, inputs = language_model(), clips()
    ids = generate(model, inputs, {"max_new_tokens": 9, "num_beams": 1, **ENDS})
    assert torch.equal(ids, theirs(model, inputs, max_new_tokens=9, do_sample=False, **ENDS))


@pytest.mark.parametrize("kind", sorted(LANGUAGE_MODELS))
def test_every_language_model(kind):
    more = {"use_sliding_window": False} if kind.startswith("qwen") else {}
    model = language_model(0, kind, **more, **({"sliding_window": None} if kind in ("mistral", "phi3") else {}))
    check(model, clips(), num_beams=5, num_return_sequences=5, max_new_tokens=20, **ENDS)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_grouping_of_heads(heads, attention):
    model = language_model(0, num_key_value_heads=heads, attn_implementation=attention)
    check(model, clips(), num_beams=5, **ENDS)
    assert model.config._attn_implementation == attention


def test_a_large_vocabulary():
    check(language_model(0, vocab_size=512), clips(), num_beams=3, num_return_sequences=3, **ENDS)


@pytest.mark.parametrize("size", [(2, 3, 512), (1, 15, 640), (3, 2, 50)])
def test_the_largest_scores_are_found(size):
    generator = torch.Generator().manual_seed(0)
    scores, before = torch.randn(size, generator=generator), torch.randn(size[:2], generator=generator)
    first = before.clone()
    first[:, 1:] = -1e9  # as in the first step, where all beams are alike
    scores[0, 0, 5:] = -torch.inf
    for own in (before, first):
        sums = (scores + own[..., None]).flatten(1)
        best, places = beam_search._top(scores, own, 6)
        assert torch.equal(best, sums.topk(6).values)
        assert torch.equal(sums.gather(1, places), best)
        assert all(len(set(row)) == 6 for row in places.tolist())


BANK: dict[str, Any] = {"routed_experts": 5, "top_k": 2, "bottleneck": 3}


@pytest.mark.parametrize(
    "adapter",
    [
        *(MomeAdapterConfig(place, **BANK) for place in ("layer", "attention", "ffn")),
        MomeAdapterConfig("layer", **BANK, normalize_input=False, routers=3),
        LoraAdapterConfig(4, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")),
        LoraAdapterConfig(4, specific=3),
    ],
    ids=["layer", "attention", "ffn", "routers", "lora", "lora-groups"],
)
@pytest.mark.parametrize("groups", [(0, 2, 1, 2), (1, 1, 1, 1)])
def test_adapters_run_inside(adapter, groups):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SIZES)).eval()
    model.load_state_dict(language_model().state_dict())
    attach(model, adapter)
    randomize(model)
    options = {"num_beams": 5, "num_return_sequences": 2, **ENDS}
    if not adapter.groups:
        check(model, clips(), **options)
    with use_context(model, AdapterContext(group=torch.tensor(groups), top_k=3)):
        found = check(model, clips(), **options)
    plain = generate(language_model(), clips(), {**options, **WHOLE, "max_new_tokens": 12})
    assert not torch.equal(found.sequences_scores, plain.sequences_scores)


def recogniser(adapter: Any, **options: Any) -> Any:
    return make_model("llama", adapter, generation={"num_beams": 4, "eos_token_id": [2, 9, 17, 30]}, **options)


@pytest.mark.parametrize(
    "adapter",
    [
        "layer",
        "lora",
        {"type": "lora", "bottleneck": 4, "specific": "rates"},
        {"type": "mome", **BANK, "routers": "tasks"},
    ],
    ids=["mome", "lora", "lora-groups", "routers"],
)
def test_a_recogniser_transcribes_clips_of_mixed_rates(adapter, monkeypatch):
    model = recogniser(adapter)
    inputs = raw_inputs([(133, 34), (64, 16), (100, 25)])
    options = {"rates": [Rates(4, 2), Rates(None, 5), Rates(16, None)], "most_tokens": [9, 4, 12], "max_new_tokens": 12}
    options |= {"min_new_tokens": 2, **WHOLE} | ({} if "lora" in str(adapter) else {"active_experts": 3})
    found = model.generate(**inputs, **options)
    monkeypatch.setattr(beam_search, "_covers", lambda *_: False)
    expected = model.generate(**inputs, **options)
    assert found.past_key_values is None
    assert expected.past_key_values is not None
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=0, atol=1e-4)


def test_no_clip_depends_on_its_batch():
    model, options = language_model(), {"num_beams": 6, "max_new_tokens": 30, **ENDS}
    together = generate(model, clips(), options)
    for row, inputs in zip(together.tolist(), alone(clips()), strict=True):
        ids = generate(model, inputs, options)[0].tolist()
        assert row[: len(ids)] == ids


def alone(inputs: LanguageInputs) -> list[LanguageInputs]:
    """The clips of a batch one by one, without padding."""
    rows = zip(inputs.embeddings, inputs.mask, inputs.positions, strict=True)
    return [
        LanguageInputs(*(part[mask][None] for part in (row, mask, place)), [], [], place) for row, mask, place in rows
    ]


@pytest.mark.parametrize(("prefix", "share"), [(88, 3), (257, 6), (757, 9)])
def test_keys_and_values_take_less_memory_than_those_of_transformers(prefix, share, monkeypatch):
    model = language_model(0, max_position_embeddings=1024)
    options = {"num_beams": 15, "max_new_tokens": 32, "min_new_tokens": 32}
    ours, kept = [], shared_prefix.Columns.update

    def update(self: Any, *states: Any, **more: Any) -> Any:
        ours.append(sum(part.numel() for part in self.memory))
        return kept(self, *states, **more)

    monkeypatch.setattr(shared_prefix.Columns, "update", update)
    generate(model, clips((prefix,)), options)
    assert len(ours) == 2 * 31  # layers, steps
    heads, width = SIZES["num_key_value_heads"], SIZES["head_dim"]
    assert max(ours) * share <= 15 * (prefix + 31) * 2 * heads * width


def test_a_clip_is_read_once():
    model, rows = language_model(), []
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:2]))
    generate(model, clips((40,)), {"num_beams": 15, "max_new_tokens": 5, "min_new_tokens": 5})
    handle.remove()
    assert [tuple(shape) for shape in rows] == [(1, 40), *[(1, 15)] * 4]


def test_the_model_is_as_before():
    model = language_model(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    generate(model, clips(), {"num_beams": 3, "max_new_tokens": 4})
    assert all(modules[name] is module for name, module in model.named_modules())
    assert {type(module) for module in model.modules()}.isdisjoint({OneDnnLinear})
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_the_search_does_not_do_is_left_to_transformers(monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("our own search ran")

    monkeypatch.setattr(beam_search, "_search", refuse)
    inputs, beams = clips((6,)), {"num_beams": 3, "max_new_tokens": 3}
    for options in ({"do_sample": True}, {"output_hidden_states": True}, {"suppress_tokens": [4]}, {"num_beams": 1}):
        assert len(generate(language_model(), inputs, {**beams, **options})) > 0
    unlike = [
        language_model(0, "mistral", sliding_window=4),
        language_model(0, "olmo3"),
        language_model.__wrapped__(0, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
    ]
    assert not any(shares_prefix(model.config) for model in unlike)
    changed = language_model.__wrapped__(0)  # as Accelerate does where layers are on several devices
    changed.model.layers[1].forward = functools.partial(type(changed.model.layers[1]).forward, changed.model.layers[1])
    for model in (*unlike, changed):
        assert torch.equal(generate(model, inputs, beams), theirs(model, inputs, **beams))
    with pytest.raises(AssertionError, match="our own search ran"):
        generate(language_model(), inputs, beams)
