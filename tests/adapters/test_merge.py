"""A LoRA without us: merged into the weights, or in PEFT's files."""

from __future__ import annotations

import json

import pytest
import torch

from mome.adapters import (
    AdapterContext,
    LoraAdapterConfig,
    adapter_modules,
    attach,
    attach_lora,
    merge,
    save_adapter,
)
from mome.errors import MomeError

from . import tiny

kinds = pytest.mark.parametrize(("adapter", "group"), [("lora", None), ("lora-ss", 2), ("lora-mss", 1)])
families = pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])


def logits_of(model, group: int | None, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, adapter_context=AdapterContext(group=group)).logits.detach()


@families
@kinds
def test_a_merged_model_is_a_plain_one_with_equal_logits(family, adapter, group) -> None:
    model, frozen, ids = tiny.model(family, adapter), tiny.model(family), tiny.ids(2, 6)
    expected = logits_of(model, group, ids)
    assert not torch.allclose(frozen(ids).logits, expected, atol=1e-2)
    assert merge(model, group) is model
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == frozen.state_dict().keys()
    for ours, theirs in zip(model.modules(), frozen.modules(), strict=True):
        assert len(ours._forward_hooks) == len(theirs._forward_hooks)
        assert len(ours._forward_pre_hooks) == len(theirs._forward_pre_hooks)
        assert not hasattr(ours, "adapter_slot")
    frozen.load_state_dict(model.state_dict())
    assert torch.equal(frozen(ids).logits, model(ids).logits)
    attach(model, tiny.ADAPTERS["layer"])  # and it can be adapted anew
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_merging_rounds_to_the_dtype_of_the_weights_once() -> None:
    model = tiny.model("llama", "lora").to(torch.bfloat16)
    linear = model.model.layers[0].self_attn.q_proj
    update = linear.lora.scale * linear.lora.up.weight.float() @ linear.lora.down.weight.float()
    expected = (linear.weight.float() + update).to(torch.bfloat16)
    merge(model)
    assert torch.equal(linear.weight, expected)
    assert not linear.weight.requires_grad


@families
@kinds
def test_peft_loads_the_export_with_equal_logits(family, adapter, group, tmp_path) -> None:
    from peft import PeftModel

    model, ids = tiny.model(family, adapter), tiny.ids(2, 6)
    save_adapter(model, tmp_path / "new", group=group)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = PeftModel.from_pretrained(tiny.model(family), tmp_path / "new")
    torch.testing.assert_close(loaded(ids).logits, logits_of(model, group, ids), rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    ours = (tiny.ADAPTERS | tiny.GROUPED)[adapter]
    assert config["r"] == ours.bottleneck * (2 if adapter == "lora-mss" else 1)
    assert config["lora_alpha"] / config["r"] == ours.scale
    assert config["target_modules"] == sorted(ours.targets)


def test_export_leaves_layers_of_the_same_name_elsewhere_alone(tmp_path) -> None:
    from peft import PeftModel

    model, base = tiny.model("llama", "lora"), tiny.model("llama")
    for each in (model, base):
        each.tower = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert type(loaded.base_model.model.tower["q_proj"]) is torch.nn.Linear
    ids = tiny.ids(1, 4)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


def export(model, group) -> None:
    save_adapter(model, "never-written", group=group)


@pytest.mark.parametrize(
    ("action", "adapter", "group", "message"),
    [
        (merge, "layer", None, "mome adapter"),
        (export, "layer", 0, "mome adapter"),
        (merge, None, None, "no lora adapter"),
        (export, None, None, "no adapter is at work in this model"),
        (merge, "lora-ss", None, "has 3 groups: choose one"),
        *((action, "lora", 0, "leave group out") for action in (merge, export)),
        *((action, "lora-mss", 3, "group = 3 does not exist") for action in (merge, export)),
    ],
)
def test_what_is_no_single_low_rank_update_is_refused(action, adapter, group, message) -> None:
    model = tiny.model("llama", adapter)
    keys = model.state_dict().keys()
    with pytest.raises(MomeError, match=message):
        action(model, group)
    assert model.state_dict().keys() == keys


def test_quantised_weights_are_refused_and_nothing_is_changed() -> None:
    model, ids = tiny.model("llama", "lora"), tiny.ids(1, 4)
    expected = model(ids).logits
    last = model.model.layers[2].mlp.down_proj
    weight = last.weight
    last.weight = torch.nn.Parameter(weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(MomeError, match=r"layers.2.mlp.down_proj.weight is quantised"):
        merge(model)
    last.weight = weight
    assert torch.equal(model(ids).logits, expected)
    assert len(list(adapter_modules(model))) == 9


def test_loras_of_several_factors_are_no_one_adapter(tmp_path) -> None:
    model = tiny.model("llama")
    attach_lora(model.model.layers[:1], LoraAdapterConfig(4, 0.5))
    attach_lora(model.model.layers[1:], LoraAdapterConfig(4, 0.25))
    with pytest.raises(MomeError, match="no adapter is at work in this model"):
        save_adapter(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
