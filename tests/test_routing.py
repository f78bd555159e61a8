from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.adapters import AdapterContext, load_balancing_loss, router_statistics
from mome.errors import MomeError


@settings(deadline=None, max_examples=40)
@given(
    experts=st.integers(1, 7),
    tokens=st.integers(1, 9),
    k_share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_statistics_equal_a_loop_over_unmasked_tokens(experts, tokens, k_share, seed) -> None:
    torch.manual_seed(seed)
    k = 1 + round(k_share * (experts - 1))
    probabilities = torch.randn(2, tokens, experts, dtype=torch.float64).softmax(-1)
    chosen = probabilities.topk(k).indices
    mask = torch.rand(2, tokens) < 0.7
    statistics = router_statistics(probabilities, chosen, mask)
    load, probability, entropy, count = [0.0] * experts, [0.0] * experts, 0.0, 0
    for b in range(2):
        for t in range(tokens):
            if not mask[b, t]:
                continue
            count += 1
            for e in chosen[b, t].tolist():
                load[e] += 1
            for e in range(experts):
                p = float(probabilities[b, t, e])
                probability[e] += p
                entropy -= p * math.log(p)
    count = max(count, 1)
    load = [x / (count * k) for x in load]
    probability = [x / count for x in probability]
    close = {"abs": 1e-9}
    assert statistics.load.tolist() == pytest.approx(load, **close)
    assert statistics.probability.tolist() == pytest.approx(probability, **close)
    assert float(statistics.entropy) == pytest.approx(entropy / count, **close)
    loss = experts * sum(f * p for f, p in zip(load, probability, strict=True))
    assert float(statistics.balance_loss) == pytest.approx(loss, **close)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_loss_is_one_at_balance_and_n_over_k_at_collapse(k) -> None:
    experts = 4
    # Token i prefers the experts i, i + 1, ..., i + k - 1.
    logits = torch.stack([torch.arange(experts).roll(i) for i in range(experts)]).double().neg()
    probabilities = logits.softmax(-1)
    balanced = router_statistics(probabilities, probabilities.topk(k).indices)
    assert float(balanced.balance_loss) == pytest.approx(1)
    collapsed = torch.full((8, experts), 1e-9, dtype=torch.float64)
    collapsed[:, :k] = 1 / k
    statistics = router_statistics(collapsed, collapsed.topk(k).indices)
    assert float(statistics.balance_loss) == pytest.approx(experts / k, abs=1e-6)


def test_masked_positions_change_nothing_and_get_no_gradient() -> None:
    mask = torch.tensor([[True, True, False]])
    logits = torch.randn(1, 3, 5, requires_grad=True)
    probabilities = logits.softmax(-1)
    whole = router_statistics(probabilities, probabilities.topk(2).indices, mask)
    part = router_statistics(probabilities[:, :2], probabilities[:, :2].topk(2).indices)
    torch.testing.assert_close(whole.balance_loss, part.balance_loss)
    torch.testing.assert_close(whole.load, part.load)
    whole.balance_loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 2] == 0).all()
    assert logits.grad[:, :2].abs().sum() > 0


def test_weights_count_a_token_more_than_once() -> None:
    probabilities = torch.randn(1, 2, 5).softmax(-1)
    twice = torch.cat([probabilities, probabilities[:, :1]], dim=1)
    weighted = router_statistics(probabilities, probabilities.topk(2).indices, torch.tensor([[2.0, 1.0]]))
    repeated = router_statistics(twice, twice.topk(2).indices)
    torch.testing.assert_close(weighted.balance_loss, repeated.balance_loss)


def test_all_masked_is_zero_and_wrong_shapes_are_refused() -> None:
    probabilities = torch.randn(1, 3, 5).softmax(-1)
    chosen = probabilities.topk(2).indices
    statistics = router_statistics(probabilities, chosen, torch.zeros(1, 3, dtype=torch.bool))
    assert float(statistics.balance_loss) == 0
    with pytest.raises(ValueError, match="token_mask"):
        router_statistics(probabilities, chosen, torch.ones(1, 4, dtype=torch.bool))


def test_mean_over_layers() -> None:
    context = AdapterContext()
    with pytest.raises(MomeError, match="adapter_context"):
        load_balancing_loss(context)
    losses = []
    for layer in range(3):
        probabilities = torch.randn(1, 3, 5).softmax(-1)
        context.record(layer, router_statistics(probabilities, probabilities.topk(2).indices))
        losses.append(float(context.routing[layer].balance_loss))
    assert float(load_balancing_loss(context)) == pytest.approx(sum(losses) / 3)
