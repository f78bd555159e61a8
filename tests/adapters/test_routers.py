"""A router for each group of sequences, such as rates or tasks, against one router and against the formula."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.adapters import (
    AdapterContext,
    ExpertBank,
    MomeAdapterConfig,
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    attach,
    load_adapter_state_dict,
    load_balancing_loss,
    merge,
    save_adapter,
    use_context,
)
from mome.errors import MomeError

from . import tiny
from .test_experts import slow, trained_bank
from .test_specific import in_groups
from .test_training import assert_same, enable_checkpointing, gradients

families = pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
routed = pytest.mark.parametrize("adapter", tiny.ROUTED)


def alone(bank: ExpertBank, group: int) -> ExpertBank:
    """A bank with one router, that of ``group``, and the same experts, differentiable with respect to ``bank``."""
    one = ExpertBank(bank.width, replace(bank.config, routers=1), dtype=bank.inner_weight.dtype)
    del one.inner_weight, one.inner_bias, one.outer_weight
    one.inner_weight = torch.cat([bank.routers[group], bank.inner_weight])
    one.inner_bias, one.outer_weight = bank.inner_bias, bank.outer_weight
    return one


def plain(model, group: int):
    """The tiny model of the same family with one router for all, that of ``group``."""
    banks = dict(adapter_modules(model))
    (config,) = {bank.config for bank in banks.values()}
    plain = attach(tiny.model(model.config.model_type.removesuffix("_text")), replace(config, routers=1))
    for name, bank in adapter_modules(plain):
        theirs = banks[name]
        bank.inner_weight.data.copy_(torch.cat([theirs.routers[group], theirs.inner_weight]))
        bank.inner_bias.data.copy_(theirs.inner_bias)
        bank.outer_weight.data.copy_(theirs.outer_weight)
    return plain


@settings(deadline=None, max_examples=30)
@given(
    groups=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    beams=st.integers(1, 3),
    renormalize=st.booleans(),
    flat=st.booleans(),
    seed=st.integers(0, 999),
)
def test_bank_and_its_gradients_equal_the_slow_loop(groups, beams, renormalize, flat, seed) -> None:
    torch.manual_seed(seed)
    config = MomeAdapterConfig(routed_experts=4, top_k=2, bottleneck=3, renormalize=renormalize, routers=3)
    bank = trained_bank(5, config)
    x = torch.randn(beams * len(groups), 2, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    ours = bank(x.flatten(0, 1) if flat else x, in_groups(*groups)).view(x.shape)
    rows = [group for group in groups for _ in range(beams)]
    theirs = torch.stack([slow(alone(bank, group), row) for row, group in zip(x, rows, strict=True)])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    inputs = [x, *bank.parameters()]
    one, other = (torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, theirs))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert [bool(part.any()) for part in one[-1]] == [group in groups for group in range(3)]
    if len(set(groups)) == 1:
        assert torch.equal(bank(x, AdapterContext(group=groups[0])), bank(x, in_groups(*groups)))


def test_output_is_zero_at_the_start_and_the_routers_differ() -> None:
    bank = ExpertBank(8, MomeAdapterConfig(routed_experts=4, top_k=2, bottleneck=2, routers=2))
    assert torch.equal(bank(torch.randn(2, 3, 8), in_groups(1, 0)), torch.zeros(2, 3, 8))
    assert bank.routers.abs().max() <= 8**-0.5
    assert not torch.equal(bank.routers[0], bank.routers[1])
    assert bank.down_weight.shape == (5, 2, 8)
    assert "routers=2" in repr(bank)


def test_one_router_has_the_tensors_that_it_had() -> None:
    shapes = {name: tuple(p.shape) for name, p in ExpertBank(8, MomeAdapterConfig(bottleneck=2)).named_parameters()}
    assert shapes == {"inner_weight": (23 + 24 * 2, 8), "inner_bias": (24 * 2,), "outer_weight": (8, 24 * 3)}


@families
@routed
def test_is_one_model_per_group(family, adapter) -> None:
    model, ids = tiny.model(family, adapter), tiny.ids(3, 7)
    expected = [plain(model, group)(ids).logits for group in range(3)]
    assert not torch.allclose(expected[0], expected[2], atol=1e-3)
    for groups in ((0, 2, 0), (1, 1, 1), (2, 1, 0)):
        logits = model(ids, adapter_context=in_groups(*groups)).logits
        rows = torch.stack([expected[group][row] for row, group in enumerate(groups)])
        torch.testing.assert_close(logits, rows, rtol=1e-4, atol=1e-5)


@families
@routed
def test_checkpointing_gives_the_same_gradients_for_two_forwards_in_other_groups(family, adapter) -> None:
    model, ids = tiny.model(family, adapter).train(), tiny.ids(2, 6)

    def loss(*groups: int) -> torch.Tensor:
        context = in_groups(*groups)
        loss = model(ids, labels=ids, use_cache=False, adapter_context=context).loss
        return loss + load_balancing_loss(context)

    loss(0, 2).backward()
    loss(2, 2).backward()
    separate = gradients(model)
    enable_checkpointing(model)
    (loss(0, 2) + loss(2, 2)).backward()
    assert_same(gradients(model), separate)
    assert separate.keys() == dict(adapter_parameters(model)).keys(), "unused routers have a gradient, of zeros"
    for name, gradient in separate.items():
        if name.endswith(".routers"):
            assert [bool(part.any()) for part in gradient] == [True, False, True]


@routed
def test_statistics_of_a_group_are_those_of_its_router(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(2, 6)
    ours, theirs = AdapterContext(group=2), AdapterContext()
    model(ids, adapter_context=ours)
    plain(model, 2)(ids, adapter_context=theirs)
    for layer, routing in theirs.routing.items():
        torch.testing.assert_close(vars(ours.routing[layer]), vars(routing), rtol=1e-4, atol=1e-5)


@routed
def test_generate_greedy_and_beam_keep_each_sequence_in_its_group(adapter) -> None:
    model, ids, groups = tiny.model("llama", adapter), tiny.ids(3, 4), (2, 0, 1)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    mask = torch.ones_like(ids)
    for beams in (1, 3):
        with use_context(model, in_groups(*groups)):
            ours = model.generate(ids, attention_mask=mask, num_beams=beams, **options)
        for row, group in enumerate(groups):
            one = plain(model, group).generate(ids[row : row + 1], attention_mask=mask[:1], num_beams=beams, **options)
            assert torch.equal(ours[row], one[0]), f"{beams} beams, sequence {row}"


@routed
def test_copies_and_saved_states_keep_the_routers(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(2, 5)
    expected = model(ids, adapter_context=in_groups(2, 1)).logits
    loaded = tiny.model("llama", adapter, trained=False)
    load_adapter_state_dict(loaded, adapter_state_dict(model))
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids, adapter_context=in_groups(2, 1)).logits, expected)


@routed
def test_counts(adapter) -> None:
    model, config = tiny.model("llama", adapter), tiny.ROUTED[adapter]
    count = config.count(model.config)
    assert count.total == sum(p.numel() for _, p in adapter_parameters(model))
    one = replace(config, routers=1).count(model.config)
    assert (count.active, count.total - one.total) == (one.active, 2 * 3 * 5 * tiny.WIDTH)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "this MoME adapter is specific to 3 groups: pass adapter_context"),
        (AdapterContext(), "specific to 3 groups"),
        (AdapterContext(group=3), "group = 3 does not exist: the MoME adapter has groups 0 to 2"),
        (in_groups(0, 1, 1), "3 sequences, the batch has 2"),
    ],
)
@routed
def test_groups_that_cannot_be_are_refused(adapter, context, message) -> None:
    with pytest.raises(MomeError, match=message):
        tiny.model("llama", adapter)(tiny.ids(2, 3), adapter_context=context)


def test_number_of_routers_merging_and_export(tmp_path) -> None:
    for routers in (0, -1, 1.0, "rates"):
        with pytest.raises(MomeError, match=r"routers = .* is not possible: give a whole number from 1 up"):
            MomeAdapterConfig(routers=routers)
    model = tiny.model("llama", "routers-layer")
    for refused in (lambda: merge(model, 0), lambda: save_adapter(model, tmp_path / "peft", group=0)):
        with pytest.raises(MomeError, match="a mome adapter makes no low-rank update"):
            refused()
