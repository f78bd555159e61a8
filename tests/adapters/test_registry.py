"""An adapter that is defined outside the package works like the package's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mome import MomeError, MomeForSpeechRecognition
from mome.adapters import (
    Adapter,
    AdapterConfig,
    LoraAdapterConfig,
    ParameterCount,
    adapter_config_from_dict,
    adapter_config_to_dict,
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    attach,
    base,
    is_adapter_key,
    load_adapter_state_dict,
    merge,
)
from mome.adapters.layers import adapter_factory, model_width, submodule
from mome.model.cost import inference_cost, parameter_counts
from mome.rates import Rates
from tests.model.build import make_config, make_model, raw_inputs, transcripts

from . import tiny


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(base, "ADAPTERS", dict(base.ADAPTERS))


class Bottleneck(Adapter):
    """Two linear layers after a feed-forward part (Houlsby et al., 2019), named as layers of the model are."""

    def __init__(self, width: int, inner: int, **factory: Any) -> None:
        super().__init__()
        self.down_proj = nn.Linear(width, inner, bias=False, **factory)
        self.up_proj = nn.Linear(inner, width, bias=False, **factory)
        nn.init.zeros_(self.up_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up_proj(self.down_proj(x).relu())


def add_bottleneck(mlp: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + mlp.bottleneck(output)


def define(name: str = "bottleneck") -> type[AdapterConfig]:
    @dataclass(frozen=True)
    class BottleneckConfig(AdapterConfig, kind="bottleneck"):
        inner: int = 3

        def attach(self, layers: nn.ModuleList) -> None:
            for layer in layers:
                mlp = submodule(layer, "mlp")
                mlp.add_module(name, Bottleneck(model_width(layer), self.inner, **adapter_factory(layer)))
                mlp.register_forward_hook(add_bottleneck, prepend=True)

        def count(self, language_model: Any) -> ParameterCount:
            number = 2 * language_model.num_hidden_layers * language_model.hidden_size * self.inner
            return ParameterCount(number, number)

    return BottleneckConfig


def test_it_is_known_by_its_type() -> None:
    with pytest.raises(MomeError, match="adapter type 'bottleneck' is unknown"):
        adapter_config_from_dict({"type": "bottleneck"})
    assert not is_adapter_key("layers.0.mlp.bottleneck.up_proj.weight")
    kind = define()
    assert is_adapter_key("layers.0.mlp.bottleneck.up_proj.weight")
    assert adapter_config_to_dict(kind(5)) == {"type": "bottleneck", "inner": 5}
    assert adapter_config_from_dict({"type": "bottleneck", "inner": 5}) == kind(5)


def test_it_is_attached_to_a_language_model() -> None:
    config = define()()
    model, frozen, ids = tiny.model("llama"), tiny.model("llama"), tiny.ids(2, 9)
    attach(model, config)
    assert torch.equal(model(ids).logits, frozen(ids).logits)
    assert [name for name, _ in adapter_modules(model)] == [f"model.layers.{i}.mlp.bottleneck" for i in range(3)]
    assert config.count(model.config).total == sum(value.numel() for _, value in adapter_parameters(model))
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(adapter_state_dict(model))
    assert all(map(is_adapter_key, adapter_state_dict(model)))
    tiny.randomize(model)
    other = attach(tiny.model("llama"), config)
    load_adapter_state_dict(other, adapter_state_dict(model))
    assert torch.equal(other(ids).logits, model(ids).logits)
    assert not torch.equal(model(ids).logits, frozen(ids).logits)
    with pytest.raises(MomeError, match="a bottleneck adapter is attached to this model already"):
        attach(model, config)
    with pytest.raises(MomeError, match="a bottleneck adapter makes no low-rank update"):
        merge(model)


def test_a_lora_leaves_its_linear_layers_alone() -> None:
    model = attach(tiny.model("llama"), define()())
    attach(model, LoraAdapterConfig(2, targets=("down_proj", "up_proj")))
    loras = [name for name, _ in adapter_modules(model) if name.endswith(".lora")]
    assert len(loras) == 6
    assert not any(".bottleneck." in name for name in loras)


def test_a_recogniser_has_it_costed_saved_and_loaded(tmp_path) -> None:
    define()
    options = {"type": "bottleneck", "inner": 4}
    model = make_model("llama", options)
    tiny.randomize(model.language_model)
    counts = parameter_counts(model.config)
    assert counts.adapter_total == counts.adapter_active == 3 * 2 * 32 * 4
    cost = inference_cost(make_config("llama", options), Rates(4, None), 40, 0, 3)
    fed = 10 + len([1, 6, 7, 3, 4])  # tokens of the audio; start, markers and prompt
    assert cost.adapters == (fed + 2) * 3 * 2 * 2 * 32 * 4
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert loaded.config.adapter == options
    inputs = {**raw_inputs([(133, 34), (64, 16)]), "labels": transcripts([5, 3]), "rates": Rates(4, 2)}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_its_modules_must_have_its_name() -> None:
    config = define("houlsby")()
    with pytest.raises(
        ValueError, match=r"BottleneckConfig\.attach must add Adapters as sub-modules named 'bottleneck'"
    ):
        attach(tiny.model("llama"), config)


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match=r"'lora' is taken by mome\.adapters\.lora\.LoraAdapterConfig; choose another"):

        class Mine(AdapterConfig, kind="lora"):
            pass

    assert base.ADAPTERS["lora"] is LoraAdapterConfig
