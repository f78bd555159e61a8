"""The published figures, from the shipped recipes alone."""

from __future__ import annotations

import json
import socket
from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mome.connectors import build_connector
from mome.rates import Rates
from mome.training import load_config, load_recipe, recipe_names
from mome.training.loading import SHIPPED, read_layers

RECIPES = recipe_names()
shipped = cache(load_recipe)  # only to be read
# What mome-tiny starts from is built by scripts/mome_tiny, and its parts are bundled with the package.
NAMED = [name for name in RECIPES if name != "mome-tiny"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach a network fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def inspect(run):
    def call(*arguments) -> dict:
        result = run("inspect", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


LORA = {"lrs3": 6_815_744, "lrs2": 27_525_120}


def lora(corpus: str) -> int:
    """Query and value projections of all layers, rank a 32nd of the width; a key head has 64 or 128 features."""
    layers, width, keys = (16, 2048, 512) if corpus == "lrs3" else (28, 3072, 1024)
    return layers * (width // 32) * ((width + width) + (width + keys))


def experts(corpus: str, chosen: int) -> int:
    """Router and so many experts, of bottleneck 8 or 12, in all layers."""
    layers, d, r = (16, 2048, 8) if corpus == "lrs3" else (28, 3072, 12)
    return layers * (23 * d + chosen * (2 * d * r + d + r))


@pytest.mark.parametrize("corpus", LORA)
@pytest.mark.parametrize(("system", "total", "active"), [("ms", 1, 1), ("ss", 4, 1), ("mss", 5, 2)])
def test_llama_mtsk(inspect, corpus, system, total, active):
    assert lora(corpus) == LORA[corpus]
    counts = inspect(f"llama-mtsk-{system}-{corpus}")["parameters"]
    assert counts["adapter_total"] == total * LORA[corpus]
    assert counts["adapter_active"] == active * LORA[corpus]


@pytest.mark.parametrize(("corpus", "published"), [("lrs3", 3_539_584), ("lrs2", 12_732_048)])
def test_mome(inspect, corpus, published):
    counts = inspect(f"mome-layer-{corpus}")["parameters"]
    assert counts["adapter_active"] == experts(corpus, 4 + 1) == published
    assert counts["adapter_total"] == experts(corpus, 23 + 1)


@pytest.mark.parametrize("name", ["mome-layer", "mome-ffn", "mome-mhsa"])
def test_mome_with_the_8b_model(inspect, name):
    """Printed as 14.1 million active parameters."""
    for corpus in ("lrs2", "lrs3"):
        counts = inspect(f"{name}-8b-{corpus}")["parameters"]
        assert counts["adapter_active"] == 32 * (23 * 4096 + 5 * (2 * 4096 * 8 + 4096 + 8)) == 14_157_056


def test_a_router_for_each_pair_of_rates(inspect):
    shared, own = inspect("mome-layer-lrs3"), inspect("mome-layer-lrs3", "model.adapter.routers=rates")
    counts, more = shared["parameters"], own["parameters"]
    assert more["adapter_active"] == counts["adapter_active"]
    assert more["adapter_total"] - counts["adapter_total"] == 16 * 3 * 23 * 2048
    assert own["cost"] == shared["cost"]
    alone = inspect("mome-mhsa-independent-lrs3", "model.adapter.routers=rates")["parameters"]
    assert alone == inspect("mome-mhsa-independent-lrs3")["parameters"]


@pytest.mark.parametrize("corpus", LORA)
@pytest.mark.parametrize("millions", ["3.5M", "12.7M", "7M"])
def test_equal_active_parameters(corpus, millions):
    systems = [f"llama-mtsk-{name}-{corpus}" for name in ("ms", "ss", "mss")] + [f"mome-layer-{corpus}"]
    layers, d, keys = (16, 2048, 512) if corpus == "lrs3" else (28, 3072, 1024)
    rank = layers * (3 * d + keys)
    for name, step in zip(systems, (rank, rank, 2 * rank, layers * 5 * (2 * d + 1)), strict=True):
        config = load_config(name, [f"model.adapter.bottleneck={millions}"])
        active = config.adapter_config.count(config.text_config).active
        assert abs(active - float(millions[:-1]) * 1e6) <= step / 2 or config.adapter["bottleneck"] == 1, name


MEDIUM = "model.audio_encoder=openai/whisper-medium.en"


@pytest.mark.parametrize(
    ("recipe", "overrides", "published"),
    [
        ("llama-avsr-asr-8b-lrs3", (), 41_949_184),
        ("llama-avsr-vsr-8b-lrs3", (), 48_240_640),
        ("llama-avsr-8b-lrs3", (), 56_635_392),
        ("llama-avsr-vsr-lrs3", ("model.video_rates=[5]", "model.video_adapter={bottleneck: 64}"), 42_216_448),
        ("llama-mtsk-ms-lrs3", (MEDIUM,), 32_014_336),  # the published code has Whisper-medium, the paper Whisper-small
        ("llama-smop-lrs3", (), 32_018_432),
        ("omni-avsr-s-lrs3", (), 38_289_408),
        ("omni-avsr-t-lrs3", (), 51_920_896),
        ("omni-avsr-st-lrs3", (), 58_736_640),
    ],
)
def test_trained_parameters_are_those_of_the_published_code(inspect, recipe, overrides, published):
    counts = inspect(recipe, *overrides)["parameters"]
    assert counts["adapter_total"] + counts["projectors_total"] == published


def test_bottlenecks_follow_the_width():
    sizes = {"lrs3": (64, 8), "lrs2": (96, 12), "grid": (6, 1)}
    for corpus, expected in sizes.items():
        configs = load_config(f"llama-mtsk-ms-{corpus}"), load_config(f"mome-layer-{corpus}")
        assert tuple(config.adapter["bottleneck"] for config in configs) == expected
    assert load_config("llama-mtsk-ms-8b-lrs3").adapter["bottleneck"] == 64


@pytest.mark.slow
def test_whisper_medium_only_where_the_published_systems_need_it():
    medium = {name for name in RECIPES if shipped(name).model.audio_encoder == "openai/whisper-medium.en"}
    expected = {"llama-smop-lrs2", "llama-smop-lrs3", "llama-smop-jedr-lrs2", "llama-smop-jedr-lrs3"}
    expected |= {f"omni-avsr-{kind}-lrs3" for kind in ("s", "t", "st")} | {"mms-llama-lrs2", "mms-llama-lrs3"}
    assert medium == expected | {name for name in RECIPES if "-8b-" in name and "-vsr-" not in name}


@pytest.mark.parametrize("corpus", ["lrs2", "lrs3", "grid"])
@pytest.mark.parametrize("system", ["llama-avsr", "llama-mtsk-ms"])
def test_stacking_costs_projectors_alone(inspect, system, corpus):
    averaged, stacked = inspect(f"{system}-{corpus}"), inspect(f"{system}-stack-{corpus}")
    tokens = [[row["tokens"] for row in found["cost"]] for found in (averaged, stacked)]
    assert tokens[0] == tokens[1]
    counts, more = averaged["parameters"], stacked["parameters"]
    assert more["adapter_total"] == counts["adapter_total"]
    assert more["projectors_total"] > 1.4 * counts["projectors_total"]


def test_tokens_of_ten_seconds(inspect):
    found = inspect("mome-layer-lrs3")
    tokens = {row["rates"]: row["tokens"] for row in found["cost"]}
    assert tokens == {"4,2": 257, "4,5": 182, "16,2": 163, "16,5": 88}
    (whole,) = found["uncompressed"]
    assert whole["tokens"] == 757
    assert whole["tokens"] / tokens["16,5"] == pytest.approx(8.6, abs=0.05)
    assert found["cost"][0]["parts"].keys() == whole["parts"].keys()
    assert whole["parts"]["audio_encoder"] == found["cost"][3]["parts"]["audio_encoder"]
    assert whole["tflops"] == pytest.approx(sum(whole["parts"].values()))


def test_tokens_of_the_query_systems(inspect):
    (row,) = inspect("mms-llama-lrs3")["cost"]
    assert row["tokens"] - 9 == 30, "three queries a second, and the start token and the instruction's words and marks"
    tokens = {row["rates"]: row["tokens"] for row in inspect("mqt-lrs3")["cost"]}
    assert tokens == {"4,2": 257, "4,5": 182, "16,2": 163, "16,5": 88}


SYSTEMS = sorted(path.stem for path in (SHIPPED / "systems").glob("*.yaml"))
SHOWN = [f"{system}-{corpus}" for system in SYSTEMS for corpus in ("lrs3", "grid") if f"{system}-{corpus}" in RECIPES]


def test_every_system_is_there_for_every_corpus():
    assert {f"{system}-{corpus}" for system in SYSTEMS for corpus in ("lrs2", "lrs3", "grid")} <= set(RECIPES)


@pytest.mark.parametrize("name", SHOWN)
def test_every_system_can_be_inspected(inspect, name):
    found = inspect(name)
    config = load_config(name)
    assert [row["rates"] for row in found["cost"]] == [str(rates) for rates in config.rate_set.rates()]
    assert all(
        0 < row["tokens"] < found["uncompressed"][0]["tokens"] or row["rates"] in ("1,1", "1,-")
        for row in found["cost"]
    )
    assert all(row["tflops"] > 0 for row in found["cost"])
    counts = found["parameters"]
    assert 0 <= counts["adapter_active"] <= counts["adapter_total"]
    assert (counts["adapter_active"] == 0) == name.startswith("projectors-only")
    assert 0 < counts["projectors_active"] <= counts["projectors_total"]
    assert counts["adapter_total"] + counts["projectors_total"] < 0.6 * counts["frozen"]


@pytest.mark.parametrize("name", NAMED)
def test_every_recipe_describes_a_model(name):
    recipe, config = shipped(name), load_config(name)
    assert recipe.output == f"runs/{name}"
    assert config.tasks == recipe.optim.tasks
    rates = list(config.rate_set.rates())
    assert rates
    for text in recipe.optim.rates or ():
        assert Rates.parse(text) in rates
    for text in recipe.validation.rates or ():
        assert Rates.parse(text) in rates
    task = next((task for task in ("asr", "vsr") if f"-{task}-" in name), None)
    if task is not None:
        assert config.tasks == [task]
        assert (config.audio_config is None, config.video_config is None) == (task == "vsr", task == "asr")
    assert config.adapter_config is None if "projectors-only" in name else config.adapter_config.bottleneck >= 1
    with torch.device("meta"):
        made = build_connector(config.connector_config, config.surroundings)
    assert next(made.parameters()).is_meta
    if (config.adapter or {}).get("specific"):
        assert len(config.adapter_groups) == config.adapter_config.specific > 0


def leaves(values: Any, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_says_twice_in_a_row_what_it_says(name):
    """But for LoRA's ``shared``, which is told in every system that has it, and ``projector_norm`` of stacking."""
    said: dict[str, object] = {}
    for _, layer in read_layers(name):
        own = leaves(OmegaConf.to_container(layer))
        repeated = {key for key, value in own.items() if key in said and said[key] == value}
        assert repeated == set()
        said |= own
    assert name == "mome-tiny" or "output" not in said
