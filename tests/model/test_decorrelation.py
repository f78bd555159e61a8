"""The loss against attention sinks, by hand and in a model's loss."""

from __future__ import annotations

import pytest
import torch

from mome.model.decorrelation import decorrelation_loss
from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates
from tests.model.build import make_model, one_clip, raw_inputs, transcripts
from tests.model.test_forward import close, losses_by_hand, sequence_by_hand

CLIPS = [(133, 34), (64, 16), (90, 21)]
LABELS = transcripts([5, 3, 1])


def cosines_by_hand(hidden: torch.Tensor, count: int) -> list[torch.Tensor]:
    first, *others = hidden[:count]
    return [(first @ other / (first.norm() * other.norm())) ** 2 for other in others]


def test_extremes() -> None:
    prefix = torch.tensor([[False, True, True, True, False]])
    alike = torch.ones(1, 5, 4)
    torch.testing.assert_close(decorrelation_loss([alike, -2 * alike], prefix), torch.tensor(1.0))
    apart = torch.tensor([[[9.0, 9], [1, 0], [0, 2], [0, -1], [5, 5]]])
    assert decorrelation_loss([apart], prefix) == 0
    assert decorrelation_loss([], prefix) == 0
    assert decorrelation_loss([alike], prefix & False) == 0


@pytest.mark.parametrize("adapter", ["layer", "lora"])
def test_by_hand_in_the_loss_of_a_padded_batch(adapter) -> None:
    plain, model = make_model("llama", adapter), make_model("llama", adapter, decorrelation_weight=3.0)
    all_rates, inputs = [Rates(4, 2), Rates(None, 5)], raw_inputs(CLIPS)
    means = []
    for rates in all_rates:
        squares = []
        for clip, row in enumerate(LABELS):
            alone = one_clip(inputs, clip)
            count = len(sequence_by_hand(model, alone, rates))
            _, states = losses_by_hand(model, alone, row[row != IGNORED_LABEL], rates)
            squares += [square for hidden in states[1:] for square in cosines_by_hand(hidden, count)]
        means.append(torch.stack(squares).mean())
    expected = torch.stack(means).mean()
    output, without = (each(**inputs, labels=LABELS, matryoshka=all_rates) for each in (model, plain))
    close(output.connector_losses["decorrelation"], expected)
    close(output.loss, without.loss + 3 * expected)
    assert without.connector_losses == {}
    output.loss.backward()
    without.loss.backward()
    actual, other = (next(p.grad for n, p in each.named_parameters() if "connector" in n) for each in (model, plain))
    assert not torch.allclose(actual, other)


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make_model(decorrelation_weight=3.0)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model(**raw_inputs(CLIPS), labels=LABELS, rates=Rates(4, 2)).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)
