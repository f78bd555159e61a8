from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.adapters import AdapterContext, ExpertBank, MomeAdapterConfig
from mome.errors import MomeError


def trained_bank(width: int, config: MomeAdapterConfig, dtype: torch.dtype = torch.float64) -> ExpertBank:
    bank = ExpertBank(width, config, dtype=dtype)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return bank


def slow(bank: ExpertBank, x: torch.Tensor) -> torch.Tensor:
    """One token and one expert at a time, from the formula."""
    config, rows = bank.config, []
    for token in x.reshape(-1, bank.width):
        logits = bank.router_weight @ token
        probabilities = torch.exp(logits - logits.max())
        probabilities = probabilities / probabilities.sum()
        kept = sorted(range(config.routed_experts), key=lambda e: -probabilities[e].item())[: bank.top_k]
        total = sum(probabilities[e] for e in kept) if config.renormalize else 1
        gates = [1.0] * config.shared_experts + [0.0] * config.routed_experts
        for e in kept:
            gates[config.shared_experts + e] = probabilities[e] / total
        row = torch.zeros_like(token)
        for expert, gate in enumerate(gates):
            inner = bank.down_weight[expert] @ token + bank.down_bias[expert]
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
            row = row + gate * (bank.up_weight[expert] @ inner + bank.up_bias[expert])
        rows.append(row)
    return torch.stack(rows).view(x.shape) if rows else torch.zeros_like(x)


configs = st.integers(1, 6).flatmap(
    lambda routed: st.builds(
        MomeAdapterConfig,
        routed_experts=st.just(routed),
        shared_experts=st.integers(0, 2),
        top_k=st.integers(1, routed),
        bottleneck=st.integers(1, 4),
        renormalize=st.booleans(),
    )
)


@settings(deadline=None, max_examples=40)
@given(config=configs, shape=st.sampled_from([(0,), (1,), (2, 3), (2, 2, 2)]), seed=st.integers(0, 999))
def test_bank_and_its_gradients_equal_the_slow_loop(config, shape, seed) -> None:
    torch.manual_seed(seed)
    bank = trained_bank(5, config)
    x = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, *bank.parameters()]
    weights = torch.randn(*shape, 5, dtype=torch.float64)
    fast, expected = bank(x), slow(bank, x)
    torch.testing.assert_close(fast, expected, rtol=1e-10, atol=1e-10)
    if x.numel():
        ours = torch.autograd.grad((fast * weights).sum(), inputs)
        theirs = torch.autograd.grad((expected * weights).sum(), inputs, materialize_grads=True, allow_unused=True)
        for name, a, b in zip(["x", *dict(bank.named_parameters())], ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float64, 1e-12)]
)
def test_published_size_in_each_dtype(dtype, tolerance) -> None:
    torch.manual_seed(0)
    bank = trained_bank(64, MomeAdapterConfig(bottleneck=12), torch.float64)
    with torch.no_grad():
        bank.inner_weight.mul_(0.125)
        bank.to(dtype).double()  # the rounded weights, so that only the arithmetic differs
    x = torch.randn(6, 64).to(dtype)
    expected = slow(bank, x.double()).detach()
    y = bank.to(dtype)(x).detach()
    assert y.dtype == dtype
    if dtype == torch.bfloat16:
        # Rounded router logits may exchange the 4th and 5th expert of a token: compare on the whole.
        assert (y.double() - expected).norm() / expected.norm() < tolerance
    else:
        scale = float(expected.abs().max())
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * scale)


def test_output_is_zero_at_the_start_and_trains_from_there() -> None:
    bank = ExpertBank(8, MomeAdapterConfig(routed_experts=4, top_k=2, bottleneck=2))
    x = torch.randn(3, 8)
    assert torch.equal(bank(x), torch.zeros(3, 8))
    bank(x).sum().backward()
    assert bank.outer_weight.grad is not None
    assert bank.outer_weight.grad.abs().sum() > 0


def test_ties_keep_exactly_k_experts() -> None:
    bank = ExpertBank(8, MomeAdapterConfig(routed_experts=6, top_k=2))
    gates, _, chosen = bank.route(torch.zeros(5, 6))
    assert ((gates > 0).sum(-1) == 2).all()
    assert chosen.shape == (5, 2)


def test_elastic_top_k_leaves_the_other_gates_alone() -> None:
    bank = trained_bank(8, MomeAdapterConfig(routed_experts=6, top_k=4))
    x = torch.randn(7, 8, dtype=torch.float64)
    gates = bank.route(x @ bank.router_weight.T)[0]
    bank.top_k = 2
    fewer = bank.route(x @ bank.router_weight.T)[0]
    assert ((fewer > 0).sum(-1) == 2).all()
    assert ((fewer == gates) | (fewer == 0)).all()
    torch.testing.assert_close(bank(x), slow(bank, x))
    for bad in (0, 7):
        with pytest.raises(MomeError, match="top_k"):
            bank.top_k = bad


def test_a_pass_with_a_k_of_its_own_is_that_of_a_bank_with_it() -> None:
    bank, x = trained_bank(8, MomeAdapterConfig(routed_experts=6, top_k=4)), torch.randn(7, 8, dtype=torch.float64)
    for top_k in range(1, 7):
        context = AdapterContext(top_k=top_k)
        out = bank(x, context)
        assert bank.top_k == 4, "the bank is not changed: other threads use it"
        bank.top_k = top_k
        torch.testing.assert_close(out, slow(bank, x))
        bank.top_k = 4
        assert context.routing[0].load.sum() == pytest.approx(1)
    for bad in (0, 7):
        with pytest.raises(MomeError, match=f"top_k = {bad} is not possible: choose 1 to 6"):
            bank(x, AdapterContext(top_k=bad))


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_balance_loss_has_the_same_ends_for_every_k(top_k) -> None:
    """It is 1 for equal probabilities, and N_r / k if the same k experts take everything."""
    bank, context = ExpertBank(8, MomeAdapterConfig(routed_experts=6, top_k=4)), AdapterContext(top_k=top_k)
    x = torch.ones(5, 8)
    with torch.no_grad():
        bank.router_weight.zero_()
    bank(x, context)
    assert context.routing[0].balance_loss.item() == pytest.approx(1)
    with torch.no_grad():
        bank.router_weight[:top_k] = 10
    bank(x, context)
    assert context.routing[0].balance_loss.item() == pytest.approx(6 / top_k)


def test_bank_computes_in_its_own_dtype() -> None:
    bank = trained_bank(8, MomeAdapterConfig(routed_experts=6), torch.float32)
    y = bank(torch.randn(3, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16


def test_autocast() -> None:
    bank = trained_bank(16, MomeAdapterConfig(routed_experts=6), torch.float32)
    x = torch.randn(3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = bank(x)
    assert (y - bank(x)).norm() / bank(x).norm() < 0.05


def test_extra_information_in_print() -> None:
    assert "routed=23, shared=1, top_k=4, bottleneck=8" in repr(ExpertBank(4, MomeAdapterConfig()))


def test_context_without_slot_is_layer_zero() -> None:
    bank, context = ExpertBank(4, MomeAdapterConfig()), AdapterContext()
    bank(torch.randn(2, 3, 4), context)
    assert list(context.routing) == [0]
