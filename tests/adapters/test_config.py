from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mome.adapters import (
    ExpertBank,
    Lora,
    LoraAdapterConfig,
    MomeAdapterConfig,
    ParameterCount,
    adapter_config_from_dict,
    adapter_config_to_dict,
    adapter_parameters,
    attach,
)
from mome.adapters.experts import active_bank_parameters, bank_parameters
from mome.adapters.lora import lora_parameters
from mome.errors import MomeError

from . import tiny

LLAMA_1B = SimpleNamespace(
    hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64
)
LLAMA_3B = SimpleNamespace(
    hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8, head_dim=128
)


@pytest.mark.parametrize(
    ("language_model", "bottleneck", "millions"),
    [(LLAMA_1B, 8, 3.5), (LLAMA_3B, 12, 12.7), (LLAMA_1B, 1, 1.2), (LLAMA_3B, 1, 3.3)],
)
def test_published_active_parameters_of_mome(language_model, bottleneck, millions) -> None:
    count = MomeAdapterConfig(bottleneck=bottleneck).count(language_model)
    assert round(count.active / 1e6, 1) == millions


@pytest.mark.parametrize(("language_model", "bottleneck", "millions"), [(LLAMA_1B, 64, 6.8), (LLAMA_3B, 96, 27.5)])
def test_published_parameters_of_lora(language_model, bottleneck, millions) -> None:
    shared = LoraAdapterConfig(bottleneck).count(language_model)
    assert round(shared.total / 1e6, 1) == millions
    assert shared.active == shared.total
    specific = LoraAdapterConfig(bottleneck, shared=False, specific=4).count(language_model)
    assert specific == ParameterCount(4 * shared.total, shared.total)
    both = LoraAdapterConfig(bottleneck, specific=4).count(language_model)
    assert both == ParameterCount(5 * shared.total, 2 * shared.total)


def test_published_active_parameters_of_lora_mss() -> None:
    counts = [
        LoraAdapterConfig(bottleneck, specific=4).count(language_model).active
        for language_model, bottleneck in ((LLAMA_1B, 64), (LLAMA_3B, 96))
    ]
    # Printed as 13.6 M and 55.0 M; the second rounds to 55.1 and is 55.0 as twice the rounded 27.5.
    assert counts == [13_631_488, 55_050_240]


def test_counts_by_hand() -> None:
    config = MomeAdapterConfig(routed_experts=3, shared_experts=2, top_k=1, bottleneck=4)
    expert = 2 * 10 * 4 + 10 + 4
    assert bank_parameters(config, 10) == 3 * 10 + 5 * expert
    assert active_bank_parameters(config, 10) == 3 * 10 + 3 * expert
    assert active_bank_parameters(config, 10, top_k=2) == 3 * 10 + 4 * expert
    assert sum(p.numel() for p in ExpertBank(10, config).parameters()) == bank_parameters(config, 10)
    assert sum(p.numel() for p in Lora(10, 6, LoraAdapterConfig(4)).parameters()) == lora_parameters(4, 10, 6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("adapter", tiny.ADAPTERS | tiny.GROUPED)
def test_counts_are_those_of_the_modules(family, adapter) -> None:
    model = tiny.model(family, adapter)
    count = (tiny.ADAPTERS | tiny.GROUPED)[adapter].count(model.config)
    assert count.total == sum(p.numel() for _, p in adapter_parameters(model))


def test_unknown_lora_target_cannot_be_counted() -> None:
    with pytest.raises(MomeError, match="gates_proj"):
        LoraAdapterConfig(4, targets=("gates_proj",)).count(LLAMA_1B)


@pytest.mark.parametrize(
    "config",
    [
        MomeAdapterConfig(),
        MomeAdapterConfig("ffn", 7, 0, 2, 1, True, False),
        LoraAdapterConfig(64),
        LoraAdapterConfig(4, 0.5, ("q_proj",)),
        LoraAdapterConfig(4, shared=False, specific=4),
        LoraAdapterConfig(4, specific=2),
        LoraAdapterConfig(4, dropout=0.05),
    ],
)
def test_plain_dict_round_trip(config) -> None:
    values = json.loads(json.dumps(adapter_config_to_dict(config)))
    assert values["type"] in ("mome", "lora")
    assert adapter_config_from_dict(values) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "mome", "routed_expert": 3}, "did you mean routed_experts"),
        ({"type": "mome", "zzz": 3}, "its options are placement"),
        ({"type": "lora", "bottelneck": 3}, "did you mean bottleneck"),
        ({"type": "lora"}, "bottleneck"),
        ({"type": "mom"}, "mome, lora"),
        ({}, "mome, lora"),
        ({"type": "mome", "placement": "mlp"}, "layer, attention, ffn"),
        ({"type": "mome", "top_k": 24}, "top_k = 24"),
        ({"type": "mome", "top_k": 0}, "top_k"),
        ({"type": "mome", "bottleneck": 1.5}, "bottleneck"),
        ({"type": "mome", "shared_experts": -1}, "shared_experts"),
        ({"type": "lora", "bottleneck": 4, "targets": "q_proj"}, "list"),
        ({"type": "lora", "bottleneck": 4, "targets": []}, "targets"),
        ({"type": "lora", "bottleneck": 4, "shared": False}, "specific to the number of groups"),
        ({"type": "lora", "bottleneck": 4, "shared": 1}, "shared = 1"),
        ({"type": "lora", "bottleneck": 4, "specific": -1}, "specific = -1"),
        ({"type": "lora", "bottleneck": 4, "dropout": 1}, "dropout = 1 .*: give a number from 0 to less than 1"),
        ({"type": "lora", "bottleneck": 4, "dropout": -0.1}, "dropout = -0.1"),
        ({"type": "lora", "bottleneck": 4, "dropout": float("nan")}, "dropout = nan"),
        ({"type": "lora", "bottleneck": 4, "dropout": "0.1"}, "dropout = '0.1'"),
        ({"type": "lora", "bottleneck": 4, "dropout": True}, "dropout = True"),
        ({"type": "lora", "bottleneck": 4, "specifc": 2}, "did you mean specific"),
    ],
)
def test_what_cannot_be_is_refused(values, message) -> None:
    with pytest.raises(MomeError, match=message):
        adapter_config_from_dict(values)


def test_models_that_do_not_fit_are_refused_and_unchanged() -> None:
    import torch

    with pytest.raises(MomeError, match="Linear"):
        attach(torch.nn.Linear(2, 2), MomeAdapterConfig())
    model = tiny.model()
    keys = list(model.state_dict())
    with pytest.raises(MomeError, match=r"query.*q_proj"):
        attach(model, LoraAdapterConfig(4, targets=("query",)))
    del model.model.layers[2].input_layernorm
    with pytest.raises(MomeError, match="normalize_input"):
        attach(model, MomeAdapterConfig())
    assert [key for key in keys if "layers.2.input_layernorm" not in key] == list(model.state_dict())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("adapter", ["layer", "lora"])
def test_attaching_twice_is_refused(adapter) -> None:
    model = tiny.model("llama", adapter)
    with pytest.raises(MomeError, match="already"):
        attach(model, tiny.ADAPTERS["ffn" if adapter == "layer" else "lora"])
