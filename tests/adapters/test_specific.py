"""LoRA specific to groups of sequences, such as rates or tasks, against the formulas written out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.adapters import (
    AdapterContext,
    Lora,
    LoraAdapterConfig,
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    attach,
    load_adapter_state_dict,
    use_context,
)
from mome.errors import MomeError

from . import tiny
from .test_training import assert_same, enable_checkpointing, gradients

families = pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
grouped = pytest.mark.parametrize("adapter", tiny.GROUPED)


def in_groups(*groups: int) -> AdapterContext:
    return AdapterContext(group=torch.tensor(groups))


def plain(model, group: int):
    """The tiny model of the same family, the updates of ``group`` added to its weights by hand."""
    plain = tiny.model(model.config.model_type.removesuffix("_text"))
    for name, lora in adapter_modules(model):
        update = lora.specific.up[group] @ lora.specific.down[group]
        if lora.down is not None:
            update = update + lora.up.weight @ lora.down.weight
        plain.get_submodule(name.removesuffix(".lora")).weight.data += lora.scale * update.detach()
    return plain


def slow(lora: Lora, x: torch.Tensor, groups: list[int]) -> torch.Tensor:
    """One sequence and one group at a time, as many plain LoRAs."""
    rows = []
    for row, group in zip(x, groups, strict=True):
        for other in range(lora.specific.groups):
            if other == group:
                y = (row @ lora.specific.down[other].T) @ lora.specific.up[other].T
        if lora.down is not None:
            y = y + (row @ lora.down.weight.T) @ lora.up.weight.T
        rows.append(lora.scale * y)
    return torch.stack(rows)


@settings(deadline=None, max_examples=40)
@given(
    groups=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    beams=st.integers(1, 3),
    shared=st.booleans(),
    flat=st.booleans(),
    seed=st.integers(0, 999),
)
def test_update_and_its_gradients_equal_the_slow_loop(groups, beams, shared, flat, seed) -> None:
    torch.manual_seed(seed)
    lora = Lora(5, 6, LoraAdapterConfig(2, 0.5, shared=shared, specific=3), dtype=torch.float64)
    for parameter in lora.parameters():
        parameter.data.normal_()
    x = torch.randn(beams * len(groups), 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(beams * len(groups), 4, 6, dtype=torch.float64)
    inputs = [x, *lora.parameters()]
    # Some layers see their tokens without the batch dimension.
    ours = lora(x.flatten(0, 1) if flat else x, in_groups(*groups)).view(weights.shape)
    theirs = slow(lora, x, [group for group in groups for _ in range(beams)])
    torch.testing.assert_close(ours, theirs)
    one, other = (torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, theirs))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)
    if len(set(groups)) == 1:
        assert torch.equal(lora(x, AdapterContext(group=groups[0])), lora(x, in_groups(*groups)))


@families
@grouped
def test_starts_as_the_frozen_model_and_then_is_one_model_per_group(family, adapter) -> None:
    model, ids = tiny.model(family, adapter, trained=False), tiny.ids(3, 7)
    assert torch.equal(model(ids, adapter_context=in_groups(0, 2, 0)).logits, tiny.model(family)(ids).logits)
    tiny.randomize(model)
    expected = [plain(model, group)(ids).logits for group in range(3)]
    assert not torch.allclose(expected[0], expected[2], atol=1e-2)
    for groups in ((0, 2, 0), (1, 1, 1), (2, 1, 0)):
        logits = model(ids, adapter_context=in_groups(*groups)).logits
        rows = torch.stack([expected[group][row] for row, group in enumerate(groups)])
        torch.testing.assert_close(logits, rows, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(ids, adapter_context=AdapterContext(group=1)).logits, expected[1])


@families
@grouped
def test_checkpointing_gives_the_same_gradients_for_two_forwards_in_other_groups(family, adapter) -> None:
    model, ids = tiny.model(family, adapter).train(), tiny.ids(2, 6)

    def loss(*groups: int) -> torch.Tensor:
        return model(ids, labels=ids, use_cache=False, adapter_context=in_groups(*groups)).loss

    loss(0, 2).backward()
    loss(2, 2).backward()
    separate = gradients(model)
    enable_checkpointing(model)
    (loss(0, 2) + loss(2, 2)).backward()
    assert_same(gradients(model), separate)
    assert separate.keys() == dict(adapter_parameters(model)).keys(), "unused groups have a gradient, of zeros"
    for name, gradient in separate.items():
        if ".specific." in name:
            assert [bool(part.any()) for part in gradient] == [True, False, True]


@families
@grouped
def test_training_one_group_changes_it_alone(family, adapter) -> None:
    torch.manual_seed(0)
    model, ids = tiny.model(family, adapter, trained=False).train(), tiny.ids(2, 7)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for _, p in adapter_parameters(model)], lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(30):
        loss = model(ids, labels=ids, adapter_context=AdapterContext(group=1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    changed = [[bool(up.any()) for up in lora.specific.up] for _, lora in adapter_modules(model)]
    assert changed == [[False, True, False]] * len(changed)


@families
@grouped
def test_generate_greedy_and_beam_keep_each_sequence_in_its_group(family, adapter) -> None:
    model, ids, groups = tiny.model(family, adapter), tiny.ids(3, 4), (2, 0, 1)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    mask = torch.ones_like(ids)
    for beams in (1, 3):
        with use_context(model, in_groups(*groups)):
            ours = model.generate(ids, attention_mask=mask, num_beams=beams, **settings)
        for row, group in enumerate(groups):
            alone = plain(model, group).generate(
                ids[row : row + 1], attention_mask=mask[:1], num_beams=beams, **settings
            )
            assert torch.equal(ours[row], alone[0]), f"{beams} beams, sequence {row}"
    with pytest.raises(MomeError, match="use_context"):
        model.generate(ids, attention_mask=mask, **settings)


def test_an_explicit_context_goes_before_that_of_the_block() -> None:
    model, ids = tiny.model("llama", "lora-ss"), tiny.ids(1, 4)
    with use_context(model, AdapterContext(group=0)):
        inner = model(ids, adapter_context=AdapterContext(group=2)).logits
    assert torch.equal(inner, model(ids, adapter_context=AdapterContext(group=2)).logits)


@grouped
def test_copies_and_saved_states_keep_the_groups_apart(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(2, 5)
    expected = model(ids, adapter_context=in_groups(2, 1)).logits
    loaded = tiny.model("llama", adapter, trained=False)
    load_adapter_state_dict(loaded, adapter_state_dict(model))
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids, adapter_context=in_groups(2, 1)).logits, expected)
    assert "model.layers.0.self_attn.q_proj.lora.specific.down" in model.state_dict()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, r"specific to 3 groups: pass adapter_context=AdapterContext\(group"),
        (AdapterContext(), "specific to 3 groups"),
        (AdapterContext(group=3), "group = 3 does not exist: the LoRA has groups 0 to 2"),
        (AdapterContext(group=-1), "group = -1 does not exist"),
        (in_groups(0, 7), "group = 7 does not exist"),
        (in_groups(0, 1, 1), "3 sequences, the batch has 2"),
        (in_groups(1, 1, 1), "3 sequences, the batch has 2"),
        (AdapterContext(group=torch.tensor([0.0, 1.0])), "long tensor"),
        (AdapterContext(group=torch.tensor(1)), "long tensor"),
        (AdapterContext(group=torch.tensor([], dtype=torch.long)), "long tensor"),
    ],
)
def test_groups_that_cannot_be_are_refused(context, message) -> None:
    with pytest.raises(MomeError, match=message):
        tiny.model("llama", "lora-mss")(tiny.ids(2, 3), adapter_context=context)


def test_experts_and_shared_lora_ignore_the_group() -> None:
    for adapter in ("attention", "lora"):
        model, ids = tiny.model("llama", adapter), tiny.ids(2, 3)
        assert torch.equal(model(ids, adapter_context=in_groups(5, 6)).logits, model(ids).logits)


def test_bfloat16_and_autocast() -> None:
    model = attach(tiny.model("llama").to(torch.bfloat16), tiny.GROUPED["lora-mss"])
    tiny.randomize(model)
    ids = tiny.ids(2, 5)
    assert model(ids, adapter_context=in_groups(0, 1)).logits.dtype == torch.bfloat16
    model.float()
    expected = model(ids, adapter_context=in_groups(0, 1)).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, adapter_context=in_groups(0, 1)).logits
    assert (logits - expected).norm() / expected.norm() < 0.05
