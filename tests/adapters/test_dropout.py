"""Dropout of a LoRA's input, against PEFT's and against itself under another seed, batch or checkpointing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mome.adapters import AdapterContext, ExpertBank, Lora, adapter_modules, adapter_parameters, attach, save_adapter

from . import tiny

DROPOUT, SEED = 0.4, 11
LORAS = {name: replace((tiny.ADAPTERS | tiny.GROUPED)[name], dropout=DROPOUT) for name in ("lora", *tiny.GROUPED)}
kinds = pytest.mark.parametrize(("adapter", "group"), [("lora", None), ("lora-ss", 2), ("lora-mss", 1)])


def model_with(adapter: str):
    model = attach(tiny.model(), LORAS[adapter])
    tiny.randomize(model)
    return model


def seeded(model, ids: torch.Tensor, seed: int = SEED, **given) -> torch.Tensor:
    torch.manual_seed(seed)
    return model(ids, **given).logits


@kinds
def test_training_is_that_of_peft(adapter, group, tmp_path) -> None:
    from peft import PeftModel

    model, ids, given = model_with(adapter), tiny.ids(2, 6), {"adapter_context": AdapterContext(group=group)}
    save_adapter(model, tmp_path, group=group)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_dropout"] == DROPOUT
    theirs = PeftModel.from_pretrained(tiny.model(), tmp_path, is_trainable=True)
    for mode in (True, False):
        expected = seeded(theirs.train(mode), ids)
        torch.testing.assert_close(seeded(model.train(mode), ids, **given), expected, rtol=1e-4, atol=1e-5)
        other = (seeded(model, ids, SEED + 1, **given) - expected).abs().max()
        assert (other > 1e-2) if mode else (other < 1e-5), "only training is random"


@pytest.mark.parametrize("adapter", tiny.GROUPED)
def test_all_groups_of_a_batch_lose_the_same(adapter) -> None:
    model, ids = model_with(adapter).train(), tiny.ids(2, 6)
    mixed = seeded(model, ids, adapter_context=AdapterContext(group=torch.tensor([2, 0])))
    for row, group in enumerate((2, 0)):
        alone = seeded(model, ids, adapter_context=AdapterContext(group=group))
        torch.testing.assert_close(mixed[row], alone[row], rtol=1e-4, atol=1e-5)


@kinds
def test_gradient_checkpointing_repeats_the_masks(adapter, group) -> None:
    results = []
    for checkpointing in (False, True):
        model = model_with(adapter).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(SEED)
        losses = []
        for ids in (tiny.ids(2, 6), tiny.ids(2, 4)):  # two passes before their backward pass, as in Matryoshka training
            context = AdapterContext(group=group)
            losses.append(model(ids, labels=ids, use_cache=False, adapter_context=context).loss)
        sum(losses).backward()
        results.append((losses, {name: value.grad for name, value in adapter_parameters(model)}))
    (losses, gradients), (same, others) = results
    torch.testing.assert_close(losses, same)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", [False, True])
def test_a_new_adapter_is_in_the_mode_of_its_model(mode) -> None:
    model = attach(tiny.model().train(mode), LORAS["lora"])
    assert {module.training for _, module in adapter_modules(model) if isinstance(module, Lora)} == {mode}


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_experts_lose_hidden_values_in_training_only_and_the_router_none(adapter) -> None:
    ids, kept = tiny.ids(2, 6), tiny.model(adapter=adapter)
    model = attach(tiny.model(), replace(tiny.ADAPTERS[adapter], dropout=DROPOUT))
    model.load_state_dict(kept.state_dict())
    torch.testing.assert_close(model.eval()(ids).logits, kept.eval()(ids).logits)
    one, same, other = (seeded(model.train(), ids, seed) for seed in (SEED, SEED, SEED + 1))
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 1e-2
    context = AdapterContext(), AdapterContext()
    model(ids, adapter_context=context[0])
    kept(ids, adapter_context=context[1])
    torch.testing.assert_close(context[0].routing[0].load, context[1].routing[0].load)


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_the_mean_over_the_masks_of_experts_is_the_whole(adapter) -> None:
    config = replace(tiny.ADAPTERS[adapter], dropout=DROPOUT)
    bank = ExpertBank(6, config)
    torch.manual_seed(SEED)
    torch.nn.init.normal_(bank.outer_weight)
    x = torch.randn(1, 6)
    mean = bank.train()(x.expand(20_000, -1)).mean(0)
    torch.testing.assert_close(mean, bank.eval()(x)[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_gradient_checkpointing_repeats_the_masks_of_experts(adapter) -> None:
    results, ids = [], tiny.ids(2, 6)
    for checkpointing in (False, True):
        model = attach(tiny.model(), replace(tiny.ADAPTERS[adapter], dropout=DROPOUT))
        tiny.randomize(model)
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(SEED)
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        results.append((loss, {name: value.grad for name, value in adapter_parameters(model)}))
    (loss, gradients), (same, others) = results
    torch.testing.assert_close(loss, same)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-5, atol=1e-7)
