"""Several adapters in one model: change between them, rest them all, take them off."""

from __future__ import annotations

import copy

import pytest
import torch

from mome.adapters import (
    AdapterContext,
    LoraAdapterConfig,
    adapter_names,
    adapter_parameters,
    attach,
    detach,
    save_adapter,
    set_adapters,
)
from mome.errors import MomeError

from . import tiny

KINDS = ("layer", "layer-raw", "attention", "ffn", "lora")


def hooks(model) -> list[tuple[int, int]]:
    return [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]


def adapted(*names: str):
    """A model with these adapters, all but the last of each kind resting, and the logits of each alone."""
    model, ids, alone = tiny.model(), tiny.ids(2, 6), {}
    for seed, name in enumerate(names):
        attach(model, tiny.ADAPTERS[name], name)
        set_adapters(model, name)
        tiny.randomize(model, seed)
        alone[name] = model(ids).logits.detach()
    return model, ids, alone


def test_each_adapter_works_alone_and_no_two_are_alike() -> None:
    model, ids, alone = adapted(*KINDS)
    expected = {name: tiny.model() for name in KINDS}
    for name, other in expected.items():  # each as if it had been attached to a model of its own
        attach(other, tiny.ADAPTERS[name])
        set_adapters(model, name)
        assert adapter_names(model) == {each: each == name for each in KINDS}
        for (_, ours), (_, theirs) in zip(adapter_parameters(model), adapter_parameters(other), strict=True):
            theirs.data.copy_(ours)
        assert torch.equal(model(ids).logits, alone[name])
        assert torch.equal(other(ids).logits, alone[name])
        assert hooks(model) == hooks(other)
        assert model.state_dict().keys() == other.state_dict().keys()
    assert len({logits.sum().item() for logits in alone.values()}) == len(KINDS)


@pytest.mark.parametrize("names", [KINDS, ("lora",), ("attention",)])
def test_without_adapters_the_model_is_the_plain_one_bit_for_bit(names) -> None:
    plain, (model, ids, _) = tiny.model(), adapted(*names)
    plain.model.embed_tokens.weight.requires_grad_(False)
    frozen = [name for name, value in plain.named_parameters() if not value.requires_grad]
    expected = plain(ids).logits
    set_adapters(model)
    assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(ids, adapter_context=AdapterContext()).logits, expected)
    fresh = tiny.model()
    fresh.model.embed_tokens.weight.requires_grad_(False)
    attach(fresh, tiny.ADAPTERS[names[0]])
    for each in (model, copy.deepcopy(model), fresh):
        assert detach(each) is each
        assert torch.equal(each(ids).logits, expected)
        assert hooks(each) == hooks(plain)
        assert each.state_dict().keys() == plain.state_dict().keys()
        assert all(torch.equal(value, plain.state_dict()[key]) for key, value in each.state_dict().items())
        assert all(
            vars(ours).keys() == vars(theirs).keys()
            for ours, theirs in zip(each.modules(), plain.modules(), strict=True)
        )
    assert [name for name, value in fresh.named_parameters() if not value.requires_grad] == frozen
    assert all(value.requires_grad for value in model.parameters())
    assert adapter_names(model) == {}


def test_parameters_keep_their_identity_and_the_generator_its_state() -> None:
    model, ids, alone = adapted("layer", "attention")
    set_adapters(model, "layer")
    before = [id(value) for _, value in adapter_parameters(model)]
    state = torch.get_rng_state()
    set_adapters(model, "attention")
    set_adapters(model, "layer")
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(value) for _, value in adapter_parameters(model)] == before
    model(ids, labels=ids).loss.backward()
    assert all(value.grad is not None for _, value in adapter_parameters(model))
    twin = copy.deepcopy(model)
    set_adapters(twin, "attention")
    assert torch.equal(twin(ids).logits, alone["attention"])
    assert torch.equal(model(ids).logits, alone["layer"])


def test_adapters_of_two_kinds_work_together_and_one_can_be_taken_off() -> None:
    model, ids, alone = adapted("attention", "lora", "layer")
    set_adapters(model, "attention", "lora")
    both = model(ids).logits
    assert not torch.equal(both, alone["attention"])
    assert not torch.equal(both, alone["lora"])
    with pytest.raises(MomeError, match="several adapters are at work in this model: name one of attention, lora"):
        save_adapter(model, "never-written")
    detach(model, "lora")
    assert adapter_names(model) == {"attention": True, "layer": False}
    assert torch.equal(model(ids).logits, alone["attention"])


def test_what_cannot_be_changed_to_is_refused_and_nothing_changes() -> None:
    model, ids, _ = adapted("attention", "layer")
    for names, message in (
        (("nobody",), "no adapter named nobody: its adapters are attention, layer"),
        (("attention", "layer"), "two are of one kind"),
        ((["layer"],), r"\['layer'\] is no adapter's name: give names one by one"),
    ):
        with pytest.raises(MomeError, match=message):
            set_adapters(model, *names)
    with pytest.raises(MomeError, match="an adapter named layer is attached"):
        attach(model, tiny.ADAPTERS["lora"], "layer")
    with pytest.raises(MomeError, match="no adapter named x"):
        detach(model, "layer", "x")
    attach(model, LoraAdapterConfig(2), "mine")
    tiny.randomize(model)
    expected = model(ids).logits
    with pytest.raises(MomeError, match="no linear layer x_proj"):
        attach(model, LoraAdapterConfig(2, targets=("x_proj",)), "other")
    assert adapter_names(model) == {"attention": False, "layer": True, "mine": True}
    assert torch.equal(model(ids).logits, expected)
    with pytest.raises(MomeError, match="this model has no adapter named a: it has none"):
        set_adapters(tiny.model(), "a")
