"""The number of active experts chosen for a pass, a transcript or a training step."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from mome.adapters import set_top_k
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates
from tests.model.build import BANK, make_model, raw_inputs, shared_model, transcripts

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([4, 2])
RATES = [Rates(4, 2), Rates(None, 5)]


def logits(model: MomeForSpeechRecognition, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(**raw_inputs(CLIPS), labels=LABELS, rates=RATES, **options).logits


def written(model: MomeForSpeechRecognition, beams: int = 1, **options) -> list:
    ids = model.generate(**raw_inputs(CLIPS), rates=RATES, max_new_tokens=6, num_beams=beams, pad_token_id=0, **options)
    return ids.tolist()


@pytest.mark.parametrize("placement", ["layer", "attention", "ffn"])
def test_a_pass_is_that_of_a_model_with_so_many(placement):
    model, other = shared_model("llama", placement), copy.deepcopy(shared_model("llama", placement))
    outputs = []
    for number in range(1, BANK["routed_experts"] + 1):
        set_top_k(other, number)
        outputs.append(logits(model, active_experts=number))
        assert torch.equal(outputs[-1], logits(other))
        for beams in (1, 2):
            assert written(model, beams, active_experts=number) == written(other, beams)
    assert torch.equal(logits(model), outputs[BANK["top_k"] - 1]), "the model keeps its own number"
    assert all(not torch.equal(one, two) for one, two in pairwise(outputs))


def test_with_routers_of_groups_too():
    model = make_model("llama", {**BANK, "routers": "tasks"})
    other = copy.deepcopy(model)
    set_top_k(other, 4)
    assert torch.equal(logits(model, active_experts=4), logits(other))
    assert written(model, active_experts=4) == written(other)


@pytest.mark.usefixtures("eager_switching")
def test_threads_choose_for_themselves():
    model, numbers = shared_model(), [1, 2, 3, 4, 5] * 4
    alone = {number: logits(model, active_experts=number) for number in range(1, 6)}
    with ThreadPoolExecutor(4) as pool:
        for number, found in zip(numbers, pool.map(lambda k: logits(model, active_experts=k), numbers), strict=True):
            assert torch.equal(found, alone[number])


def test_gradients_with_checkpointing_are_those_without():
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=[Rates(4, 2)], active_experts=1).loss.backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("adapter", "number", "reason"),
    [
        ("layer", 6, "choose 1 to 5, the routed experts"),
        ("layer", 0, "choose 1 to 5, the routed experts"),
        ("lora", 2, "the model has no routed experts, leave it out"),
        ("none", 2, "the model has no routed experts, leave it out"),
    ],
)
def test_impossible_numbers_are_refused(adapter, number, reason):
    for call in (logits, written):
        with pytest.raises(MomeError, match=f"active_experts = {number} is not possible: {reason}"):
            call(shared_model("llama", adapter), active_experts=number)
