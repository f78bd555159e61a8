"""Several sequences in one row: its layout and attention, and a step with and without it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mome.model import MomeForSpeechRecognition, forcing
from mome.model.packing import _attend, pack, run_packed
from mome.model.sequence import LanguageInputs
from mome.model.shared_prefix import LANGUAGE_MODELS
from mome.rates import Rates
from tests.model.build import BANK, CONNECTORS, make_model, raw_inputs, transcripts

CLIPS = [(133, 34), (64, 16), (90, 21)]
LABELS = transcripts([5, 3, 1])
FOUR = [Rates(4, 2), Rates(4, 5), Rates(16, 2), Rates(16, 5)]
SHARED, BRANCHES = [3, 1, 4], [[2, 5, 1], [4, 1, 3]]  # tokens of three clips


def batches(width: int = 16) -> list[LanguageInputs]:
    """Left-padded random sequences of three clips that begin alike."""
    generator = torch.Generator().manual_seed(0)
    beginnings = [torch.randn(count, width, generator=generator) for count in SHARED]
    made = []
    for counts in BRANCHES:
        rows = [
            torch.cat([start, torch.randn(count, width, generator=generator)])
            for start, count in zip(beginnings, counts, strict=True)
        ]
        longest = max(map(len, rows))
        embeddings = torch.stack([torch.cat([torch.zeros(longest - len(row), width), row]) for row in rows])
        offset = torch.arange(longest) - torch.tensor([longest - len(row) for row in rows])[:, None]
        made.append(LanguageInputs(embeddings, offset >= 0, offset.clamp(min=0), [], [], offset))
    return made


def test_a_row_has_each_beginning_once_and_every_end():
    packed = pack(batches(), torch.tensor(SHARED))
    assert packed.embeddings.shape[1] == sum(SHARED) + sum(map(sum, BRANCHES))
    assert packed.positions[0].tolist() == [
        *(place for count in SHARED for place in range(count)),
        *(
            start + place
            for counts in BRANCHES
            for start, count in zip(SHARED, counts, strict=True)
            for place in range(count)
        ),
    ]
    for batch, places in zip(batches(), packed.places, strict=True):
        assert torch.equal(packed.embeddings[0, places][batch.mask], batch.embeddings[batch.mask])
        assert torch.equal(packed.positions[0, places][batch.mask], batch.positions[batch.mask])


def test_a_token_attends_to_what_comes_before_it_in_its_own_sequence():
    given, shared = batches(), torch.tensor(SHARED)
    packed = pack(given, shared)
    generator = torch.Generator().manual_seed(1)
    total = packed.embeddings.shape[1]
    query, key, value = (torch.randn(1, heads, total, 8, generator=generator) for heads in (4, 2, 2))
    found, _ = _attend(torch.nn.Identity(), query, key, value, None, scaling=0.3, segments=packed.segments)
    for batch, places in zip(given, packed.places, strict=True):
        for own, mask in zip(places, batch.mask, strict=True):
            own = own[mask]
            for end in range(1, len(own) + 1):
                for head in range(4):
                    scores = key[0, head // 2, own[:end]] @ query[0, head, own[end - 1]] * 0.3
                    expected = scores.softmax(0) @ value[0, head // 2, own[:end]]
                    torch.testing.assert_close(found[0, own[end - 1], head], expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(LANGUAGE_MODELS))
def test_every_language_model_that_shares_a_prefix_reads_a_row_as_it_reads_the_sequences(kind):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads)).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.4)
    given = batches()
    packed = pack(given, torch.tensor(SHARED))
    found = run_packed(model, packed).logits[0]
    for batch, places in zip(given, packed.places, strict=True):
        for row, mask, own in zip(batch.embeddings, batch.mask, places, strict=True):
            expected = model(inputs_embeds=row[mask][None]).logits[0]
            torch.testing.assert_close(found[own[mask]], expected, atol=2e-5, rtol=1e-5)


def step(
    model: MomeForSpeechRecognition, way: str, rates: list[Rates] = FOUR, **options: Any
) -> tuple[Any, list[int], dict[str, Tensor]]:
    """The output of a step, the sizes of its passes together, and its gradients."""
    model.zero_grad()
    passes = []

    def together(self: Any, batches: list[LanguageInputs], *more: Any) -> Any:
        passes.append(len(batches))
        return original(self, batches, *more)

    original = forcing._Step.together
    least = 0 if way == "packed" else float("inf")
    with patch.object(forcing._Step, "together", together), patch.object(forcing, "_LEAST_SHARED", least):
        output = model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=rates, spare_memory=way == "spare", **options)
    (output.loss / 3).backward()  # as by accumulation
    return output, passes, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def check_same(model: MomeForSpeechRecognition, way: str, tolerance: float, **options: Any) -> list[int]:
    """A step in a way against separate passes; returns the sizes of the passes together."""
    expected, none, gradients = step(model, "separate", **options)
    gradients = {name: value.clone() for name, value in gradients.items()}
    found, passes, others = step(model, way, **options)
    assert not none
    assert gradients.keys() == others.keys()
    close = {"atol": tolerance, "rtol": tolerance}
    real = LABELS != -100
    torch.testing.assert_close(found.logits[real], expected.logits[real], **close)
    for name in ("loss", "balance_loss", "transcript_losses", "connector_losses"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **close)
    assert found.routing.keys() == expected.routing.keys()
    for layer, statistics in expected.routing.items():
        torch.testing.assert_close(vars(found.routing[layer]), vars(statistics), **close)
    for name, value in gradients.items():
        bound = tolerance * float(value.abs().max())
        torch.testing.assert_close(others[name], value, atol=bound, rtol=0)
    return passes


def double(model: MomeForSpeechRecognition) -> MomeForSpeechRecognition:
    return model.double().train()


@pytest.mark.parametrize("way", ["packed", "spare"])
@pytest.mark.parametrize("adapter", ["layer", "attention", "ffn", "lora", "none"])
def test_loss_and_gradients_are_those_of_separate_passes(adapter, way):
    model = double(
        make_model("llama", adapter, decorrelation_weight=0.3, unfrozen=["language_model"] * (adapter == "lora"))
    )
    weights = {
        "rate_weights": {"4,5": 0.5, "16,2": 0},
        "task_weights": {"avsr": 1.5},
        "active_experts": 3 if adapter == "ffn" else None,
    }
    assert check_same(model, way, 1e-6, **weights) == ([2, 2] if way == "packed" else [])


@pytest.mark.parametrize("way", ["packed", "spare"])
@pytest.mark.parametrize(
    ("adapter", "half", "tolerance"), [("layer", False, 1e-6), ("lora", False, 1e-6), ("lora", True, 0.03)]
)
def test_single_and_half_precision_agree_within_their_rounding(way, adapter, half, tolerance):
    model = make_model("llama", adapter).train()
    for _, value in model.language_model.named_parameters():
        value.data *= 0.5 if value.dim() > 1 else 1  # rounding grows from layer to layer with large weights
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output, _, gradients = step(model, "separate")
        expected = torch.cat([value.flatten() for value in gradients.values()])
        other, passes, gradients = step(model, way)
    found = torch.cat([value.flatten() for value in gradients.values()])
    assert passes == ([2, 2] if way == "packed" else [])
    assert other.loss.item() == pytest.approx(output.loss.item(), rel=tolerance)
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("way", ["packed", "spare"])
@pytest.mark.parametrize("adapter", ["layer", "attention", "lora"])
def test_gradient_checkpointing_changes_nothing(adapter, way):
    model = double(make_model("llama", adapter))
    _, _, expected = step(model, "separate")
    expected = {name: value.clone() for name, value in expected.items()}
    model.activation_checkpointing_enable()
    check_same(model, way, 1e-6)
    _, _, gradients = step(model, way)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("connector", ["shared", "mixture-joint"])
def test_connectors_whose_audio_is_that_of_its_rate_are_packed(connector):
    assert check_same(double(make_model("llama", "layer", **CONNECTORS[connector])), "packed", 1e-6) == [2, 2]


@pytest.mark.parametrize(
    ("family", "adapter", "options"),
    [
        ("gemma3", "layer", {}),
        ("gpt2", "none", {}),
        ("llama", {"type": "lora", "bottleneck": 4, "specific": "rates"}, {}),
        ("llama", {**BANK, "routers": "rates"}, {}),
        ("llama", "layer", CONNECTORS["resampler"]),
        ("llama", "layer", CONNECTORS["qformer"]),
    ],
)
def test_models_that_share_nothing_run_each_rate_alone(family, adapter, options):
    output, passes, _ = step(make_model(family, adapter, **options).train(), "packed")
    assert passes == []
    assert torch.isfinite(output.loss)


def test_updates_of_a_task_are_shared_by_its_rates():
    model = double(make_model("llama", {"type": "lora", "bottleneck": 4, "specific": "tasks"}))
    rates = [*FOUR, Rates(4, None), Rates(16, None)]
    assert check_same(model, "packed", 1e-6, rates=rates) == [2, 2]
    assert check_same(double(make_model("llama", "lora")), "packed", 1e-6, rates=rates) == [3, 3]


def test_rates_that_have_little_in_common_run_alone():
    model = make_model("llama", "lora").train()
    with patch.object(forcing._Step, "together", side_effect=AssertionError):
        model(
            **raw_inputs(CLIPS), labels=LABELS, matryoshka=[Rates(4, 2), Rates(16, 2), Rates(None, 2), Rates(None, 5)]
        )
        model(**raw_inputs(CLIPS), labels=LABELS, rates=[Rates(4, 2), Rates(4, 5), Rates(4, 5)])


def test_eager_attention_is_left_as_it_is():
    model = make_model("llama", "lora").train()
    model.language_model.set_attn_implementation("eager")
    assert step(model, "packed")[1] == []
