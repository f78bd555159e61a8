from __future__ import annotations

import weakref

import pytest
import torch

from mome.adapters import AdapterContext, adapter_parameters, decoder_layers, load_balancing_loss
from mome.errors import MomeError

from . import tiny


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in adapter_parameters(model) if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def enable_checkpointing(model) -> None:
    model.activation_checkpointing_enable({"use_reentrant": False})


def loss_of(model, adapter: str, length: int = 7, masked: int = 3, context: AdapterContext | None = None):
    ids = tiny.ids(2, length, seed=length)
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[0, -masked:] = False
    context = AdapterContext(token_mask=mask) if context is None else context
    loss = model(ids, labels=ids, use_cache=False, adapter_context=context).loss
    return loss if adapter == "lora" else loss + load_balancing_loss(context)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("adapter", tiny.ADAPTERS)
def test_gradient_checkpointing_gives_the_same_gradients(family, adapter) -> None:
    model = tiny.model(family, adapter).train()
    loss_of(model, adapter).backward()
    plain = gradients(model)
    assert len(plain) == len(list(adapter_parameters(model)))
    enable_checkpointing(model)
    loss_of(model, adapter).backward()
    assert_same(gradients(model), plain)


@pytest.mark.parametrize("adapter", tiny.ADAPTERS)
def test_two_forwards_before_one_backward_keep_their_own_context(adapter) -> None:
    model = tiny.model("llama", adapter).train()
    for length, masked in ((7, 3), (5, 1)):
        loss_of(model, adapter, length, masked).backward()
    separate = gradients(model)
    enable_checkpointing(model)
    (loss_of(model, adapter, 7, 3) + loss_of(model, adapter, 5, 1)).backward()
    assert_same(gradients(model), separate)


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_checkpointing_by_whole_calls(adapter) -> None:
    """Hooks inside the checkpoint, as in FSDP's wrapper and in older versions of Transformers."""
    from torch.utils.checkpoint import checkpoint

    model = tiny.model("llama", adapter).train()
    loss_of(model, adapter).backward()
    plain = gradients(model)
    for layer in decoder_layers(model):
        call = layer.__call__

        class Checkpointed(type(layer)):
            def __call__(self, *args, call=call, **kwargs):
                return checkpoint(call, *args, use_reentrant=False, **kwargs)

        layer.__class__ = Checkpointed
    loss_of(model, adapter).backward()
    assert_same(gradients(model), plain)


@pytest.mark.parametrize("adapter", tiny.BANKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_auxiliary_loss_alone_reaches_the_routers(adapter, checkpointing) -> None:
    model = tiny.model("llama", adapter).train()
    if checkpointing:
        enable_checkpointing(model)
    ids, context = tiny.ids(2, 6), AdapterContext()
    model(ids, adapter_context=context, use_cache=False)
    load_balancing_loss(context).backward()
    routed = tiny.ADAPTERS[adapter].routed_experts
    for name, parameter in adapter_parameters(model):
        if name.endswith("inner_weight"):
            assert parameter.grad[:routed].abs().sum() > 0
    last = [p.grad for name, p in adapter_parameters(model) if "layers.2" in name and "inner_weight" in name]
    assert last[0][routed:].abs().sum() == 0, "the last layer's experts have no part in its routing"


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_masked_tokens_do_not_count(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(1, 6)
    whole = AdapterContext(token_mask=torch.tensor([[True] * 4 + [False] * 2]))
    part = AdapterContext()
    model(ids, adapter_context=whole)
    model(ids[:, :4], adapter_context=part)
    for layer in range(3):
        torch.testing.assert_close(whole.routing[layer].load, part.routing[layer].load)
        torch.testing.assert_close(whole.routing[layer].balance_loss, part.routing[layer].balance_loss)
        torch.testing.assert_close(whole.routing[layer].entropy, part.routing[layer].entropy)
        assert not whole.routing[layer].load.requires_grad
        assert not whole.routing[layer].entropy.requires_grad


@pytest.mark.parametrize("adapter", tiny.ADAPTERS)
def test_nothing_remains_of_a_context_after_the_forward(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(1, 6)
    context = AdapterContext()
    model(ids, adapter_context=context)
    assert all(layer.adapter_slot.context is None for layer in decoder_layers(model))
    before = dict(context.routing)
    model(ids)
    assert context.routing == before


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_repeating_a_forward_keeps_the_first_statistics(adapter) -> None:
    model = tiny.model("llama", adapter).train()
    enable_checkpointing(model)
    context = AdapterContext()
    loss = loss_of(model, adapter, context=context)
    before = dict(context.routing)
    loss.backward()
    assert all(context.routing[layer] is before[layer] for layer in before)
    gone = weakref.ref(context)
    del context, before, loss
    assert gone() is None, "the repetition leaves nothing in the slots"


@pytest.mark.parametrize("adapter", ["attention", "ffn"])
def test_reentrant_checkpointing_is_refused(adapter) -> None:
    """It runs the first pass without gradients, so that of the load-balancing loss would be missing silently."""
    model = tiny.model("llama", adapter).train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(MomeError, match=r"reentrant .* \{\"use_reentrant\": False\}"):
        loss_of(model, adapter)
    with torch.no_grad():
        loss_of(model, adapter)
    loss_of(model.eval(), adapter).backward()
    enable_checkpointing(model.train())
    loss_of(model, adapter).backward()


@pytest.mark.parametrize("adapter", ["attention", "ffn"])
def test_reentrant_checkpointing_by_whole_calls_is_refused(adapter) -> None:
    from torch.utils.checkpoint import checkpoint

    model = tiny.model("llama", adapter).train()
    model.enable_input_require_grads()
    for layer in decoder_layers(model):
        call = layer.__call__

        class Checkpointed(type(layer)):
            def __call__(self, x, call=call, **kwargs):
                return checkpoint(lambda x: call(x, **kwargs), x, use_reentrant=True)

        layer.__class__ = Checkpointed
    loss = loss_of(model, adapter)
    with pytest.raises(MomeError, match="reentrant"):
        loss.backward()


@pytest.mark.parametrize("adapter", ["layer", "lora"])
def test_what_reentrant_checkpointing_leaves_right_is_not_refused(adapter) -> None:
    model = tiny.model("llama", adapter).train()
    loss_of(model, adapter).backward()
    plain = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": True})
    loss_of(model, adapter).backward()
    assert_same(gradients(model), plain)


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_checkpointing_keeps_no_activation_of_the_experts(adapter) -> None:
    def saved_widths(checkpointing: bool) -> set[int]:
        model, widths = tiny.model("llama", adapter).train(), set()
        if checkpointing:
            enable_checkpointing(model)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: widths.add(x.shape[-1:]) or x, lambda x: x):
            loss_of(model, adapter, length=5)
        return widths

    config = tiny.ADAPTERS[adapter]
    hidden = torch.Size([(config.routed_experts + config.shared_experts) * (config.bottleneck + 1)])
    assert hidden in saved_widths(checkpointing=False)
    assert hidden not in saved_widths(checkpointing=True)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("adapter", ["layer", "attention", "ffn", "lora"])
def test_training_lowers_the_loss_and_leaves_the_frozen_weights(family, adapter) -> None:
    torch.manual_seed(0)
    model = tiny.model(family, adapter, trained=False).train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for _, p in adapter_parameters(model)], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = loss_of(model, adapter)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
