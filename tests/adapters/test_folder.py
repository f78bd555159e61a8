"""Adapters in folders and on the hub, in PEFT's convention."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mome.adapters import (
    AdapterContext,
    adapter_names,
    load_adapter,
    push_adapter,
    save_adapter,
    set_adapters,
)
from mome.errors import MomeError

from . import tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EVERY = {**tiny.ADAPTERS, **tiny.GROUPED, **tiny.ROUTED}


def logits(model) -> torch.Tensor:
    return model(tiny.ids(2, 6), adapter_context=AdapterContext(group=1)).logits.detach()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("adapter", EVERY)
def test_a_folder_gives_the_adapter_back(family, adapter, tmp_path) -> None:
    model = tiny.model(family, adapter)
    save_adapter(model, tmp_path / "new")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [CONFIG, WEIGHTS]
    assert all(key.startswith("base_model.model.model.layers.") for key in load_file(tmp_path / "new" / WEIGHTS))
    other = tiny.model(family)
    assert load_adapter(other, tmp_path / "new", "mine") is other
    assert adapter_names(other) == {"mine": True}
    assert torch.equal(logits(other), logits(model))
    set_adapters(other)
    assert torch.equal(logits(other), logits(tiny.model(family)))


def test_several_folders_in_one_model_and_a_resting_one_is_saved(tmp_path) -> None:
    model = tiny.model()
    for adapter in ("layer", "lora", "ffn"):
        save_adapter(tiny.model("llama", adapter), tmp_path / adapter)
        load_adapter(model, tmp_path / adapter, adapter)
    assert adapter_names(model) == {"layer": False, "lora": True, "ffn": True}
    for adapter in ("layer", "lora"):
        set_adapters(model, adapter)
        assert torch.equal(logits(model), logits(tiny.model("llama", adapter)))
    save_adapter(model, tmp_path / "again", "layer")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "layer" / name).read_bytes()


@pytest.mark.parametrize("adapter", ["layer", "lora-mss"])
def test_peft_names_what_it_does_not_have(adapter, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    save_adapter(tiny.model("llama", adapter), tmp_path)
    with pytest.raises(KeyError, match="MOME"):
        peft.PeftModel.from_pretrained(tiny.model(), tmp_path)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": r".*\.mlp\.(up|down)_proj"}])
def test_a_lora_of_peft_is_loaded(options, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    options = {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    config = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, task_type="CAUSAL_LM", **options)
    theirs = peft.get_peft_model(tiny.model(), config).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(tiny.model(), tmp_path)
    assert adapter_names(ours) == {"lora": True}
    assert not torch.allclose(logits(ours), logits(tiny.model()), atol=1e-2)
    torch.testing.assert_close(logits(ours), theirs(tiny.ids(2, 6)).logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"layers_to_transform": [1]},
    ],
)
def test_what_only_peft_has_is_refused(options, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    peft.get_peft_model(tiny.model(), config).save_pretrained(tmp_path)
    model = tiny.model()
    with pytest.raises(MomeError, match=f"{next(iter(options))} = .* is not supported here: load it with PEFT itself"):
        load_adapter(model, tmp_path)
    assert adapter_names(model) == {}


def change(folder, **values) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def options(folder, **values) -> None:
    change(folder, options={**json.loads((folder / CONFIG).read_text())["options"], **values})


def state(folder, edit) -> None:
    values = load_file(folder / WEIGHTS)
    edit(values)
    save_file(values, folder / WEIGHTS)


def first(values) -> str:
    return min(values)


DAMAGES = {
    "no configuration": (lambda f: (f / CONFIG).unlink(), r"adapter_config.json is not a file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"adapter_model.safetensors is not a file"),
    "a pipe": (lambda f: ((f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)), "is not a file"),
    "no JSON": (lambda f: (f / CONFIG).write_bytes(b"\xff{"), r"adapter_config.json is damaged"),
    "deep JSON": (lambda f: (f / CONFIG).write_text("[" * 10**5), r"adapter_config.json is damaged"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), r"adapter_config.json is damaged"),
    "large JSON": (lambda f: (f / CONFIG).write_text(" " * 2**21), "more than 1 MB"),
    "another type": (lambda f: change(f, peft_type="IA3"), "the type IA3 is not LORA or MOME"),
    "a type of no text": (lambda f: change(f, peft_type=["LORA"]), "is not LORA or MOME"),
    "no options": (lambda f: change(f, options=3), "adapter type 'None' is unknown"),
    "an unknown kind": (lambda f: options(f, type="os.system"), "adapter type 'os.system' is unknown"),
    "an unknown option": (lambda f: options(f, bottelneck=1), "did you mean bottleneck"),
    "a list as a size": (lambda f: options(f, bottleneck=[1]), "bottleneck = .* is not possible"),
    "as a placement": (lambda f: options(f, placement=["layer"]), "placement .* is unknown"),
    "huge": (lambda f: options(f, bottleneck=2**20, routed_experts=2**20), "has shape"),
    "as a LoRA": (lambda f: change(f, peft_type="LORA", r=4, lora_alpha=8), "options = .* is not supported here"),
    "cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "safetensors is damaged"),
    "a pickle": (lambda f: torch.save({}, f / WEIGHTS), "safetensors is damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "safetensors is damaged"),
    "a missing tensor": (lambda f: state(f, lambda v: v.pop(first(v))), "lacks model.layers.0"),
    "one more": (lambda f: state(f, lambda v: v.update(x=torch.ones(1))), "has an unexpected x"),
    "another shape": (lambda f: state(f, lambda v: v.update({first(v): torch.ones(2)})), "has shape"),
    "NaN": (lambda f: state(f, lambda v: v[first(v)].fill_(torch.nan)), "not finite numbers"),
    "whole numbers": (lambda f: state(f, lambda v: v.update({first(v): v[first(v)].long()})), "not finite numbers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_folders_are_one_line_and_change_nothing(damage, tmp_path) -> None:
    save_adapter(tiny.model("llama", "layer"), tmp_path)
    harm, message = DAMAGES[damage]
    harm(tmp_path)
    model = tiny.model("llama", "attention")
    expected, names = logits(model), list(model.state_dict())
    with pytest.raises(MomeError, match=message) as raised:
        load_adapter(model, tmp_path, "other")
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert torch.equal(logits(model), expected)
    assert list(model.state_dict()) == names
    assert adapter_names(model) == {"mome": True}


@pytest.mark.parametrize("values", [{"r": "4"}, {"r": True}, {"r": 0}, {"r": 2**40}, {"lora_alpha": None}, {"r": 2}])
def test_impossible_numbers_of_a_lora_are_refused(values, tmp_path) -> None:
    save_adapter(tiny.model("llama", "lora"), tmp_path)
    change(tmp_path, **values)
    with pytest.raises(MomeError, match=r"not possible|has shape"):
        load_adapter(tiny.model(), tmp_path)


def test_another_model_is_named(tmp_path) -> None:
    save_adapter(tiny.model("llama", "layer"), tmp_path)
    config = tiny.config("llama")
    config.num_hidden_layers = 2
    with pytest.raises(MomeError, match=r"does not fit this model: it has an unexpected model.layers.2.mome"):
        load_adapter(AutoModelForCausalLM.from_config(config), tmp_path)
    with pytest.raises(MomeError, match=r"no adapter at .*nowhere"):
        load_adapter(tiny.model(), tmp_path / "nowhere")


def test_the_first_process_uploads(hub, monkeypatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    assert push_adapter(tiny.model("llama", "layer"), "me/adapter", token="hf_x") == ""
    with pytest.raises(MomeError, match="there is no such"):
        load_adapter(tiny.model(), "me/adapter")


def test_the_hub_has_it(hub) -> None:
    assert "me/adapter" in push_adapter(tiny.model("llama", "layer"), "me/adapter", token="hf_x")
    model = load_adapter(tiny.model(), "me/adapter")
    assert hub.downloads() == [CONFIG, WEIGHTS]
    assert torch.equal(logits(model), logits(tiny.model("llama", "layer")))
    with pytest.raises(MomeError, match="the adapter me/nothing is no folder here, and on the hub: there is no such"):
        load_adapter(tiny.model(), "me/nothing")
