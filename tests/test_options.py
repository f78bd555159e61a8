from __future__ import annotations

from dataclasses import dataclass

import pytest

from mome.adapters import LoraAdapterConfig, adapter_config_from_dict
from mome.connectors import connector_config
from mome.connectors.mixture import MixtureConfig
from mome.connectors.projectors import ProjectorsConfig
from mome.connectors.qformer import QFormerConfig
from mome.connectors.resampler import ResamplerConfig
from mome.connectors.shared import SharedConfig
from mome.errors import MomeError
from mome.options import options_from_dict


@dataclass
class Round:
    radius: float
    colour: str = "red"


@dataclass
class Plain:
    pass


KINDS = {"round": Round, "plain": Plain}


def test_the_type_names_the_class():
    assert options_from_dict("shape", KINDS, {"type": "round", "radius": 2.0}) == Round(2.0)
    assert options_from_dict("shape", KINDS, {"colour": "blue", "radius": 1.0, "type": "round"}) == Round(1.0, "blue")
    assert options_from_dict("shape", KINDS, {"type": "plain"}) == Plain()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "square"}, "shape type 'square' is unknown: choose one of round, plain"),
        ({"radius": 2.0}, "shape type 'None' is unknown: choose one of round, plain"),
        ({"type": "round", "radus": 2.0}, "shape option 'radus' is unknown for type round: did you mean radius?"),
        ({"type": "round", "xyz": 2}, "shape option 'xyz' is unknown for type round: its options are radius, colour"),
        ({"type": "plain", "radius": 2}, "shape option 'radius' is unknown for type plain: its options are none"),
        ({"type": "round"}, "shape option 'radius' is missing: type round needs it"),
    ],
)
def test_faults_are_named(values, message):
    with pytest.raises(MomeError) as caught:
        options_from_dict("shape", KINDS, values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "projectors"}, ProjectorsConfig()),
        ({"type": "shared"}, SharedConfig()),
        ({"type": "mixture", "top_k": 1, "sharing": "none"}, MixtureConfig(4, 1, "none", 0.02, 0.001)),
        ({"type": "resampler", "queries": 9}, ResamplerConfig(9, 16)),
        ({"type": "qformer", "speech_rate": False}, QFormerConfig(3, 20, 1024, 2, 16, 4096, False, 2.71)),
    ],
)
def test_connectors(values, expected):
    assert connector_config(values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"type": "projector"},
            "type 'projector' is unknown: choose one of joint, mixture, projectors, qformer, resampler, shared",
        ),
        ({"type": "mixture", "topk": 2}, "did you mean top_k"),
        ({"type": "mixture", "top_k": 5}, "top_k = 5 is more than experts = 4"),
        ({"type": "mixture", "experts": 0}, "experts = 0 is not possible"),
        ({"type": "mixture", "sharing": "all"}, "sharing 'all' is unknown: choose one of joint, experts, none"),
        ({"type": "resampler", "queries": 2.5}, "queries = 2.5 is not possible"),
        ({"type": "resampler", "heads": True}, "heads = True is not possible"),
        ({"type": "qformer", "layers": 0}, "layers = 0 is not possible"),
        ({"type": "qformer", "words_per_second": 0}, "words_per_second = 0 is not possible: give a positive number"),
    ],
)
def test_connectors_that_cannot_be(values, message):
    with pytest.raises(MomeError, match=message):
        connector_config(values)


def test_adapters():
    lora = adapter_config_from_dict({"type": "lora", "bottleneck": 3, "targets": ["k_proj"]})
    assert lora == LoraAdapterConfig(3, 1 / 8, ("k_proj",))
    with pytest.raises(MomeError, match="adapter option 'bottleneck' is missing: type lora needs it"):
        adapter_config_from_dict({"type": "lora"})
