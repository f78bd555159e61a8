"""mome-tiny without its experts, and what its card says of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import mome
from mome.adapters.inventory import adapter_modules
from mome.evaluation.result import Condition, Hypothesis, Result
from mome.rates import Rates

FOLDER = Path(__file__).parents[2] / "scripts" / "mome_tiny"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_experts_are_silent_and_nothing_else_has_changed():
    whole, silent = mome.load(), load("no_experts").without_experts(mome.load())
    banks = [dict(adapter_modules(one.model)) for one in (whole, silent)]
    assert len(banks[0]) == 4, "one for each layer"
    inputs = torch.randn(3, 192, generator=torch.Generator().manual_seed(0))
    for name, bank in banks[0].items():
        assert bank(inputs)[0].abs().max() > 0
        assert not banks[1][name](inputs)[0].any()
    for name, value in whole.model.state_dict().items():
        assert name.endswith("outer_weight") or torch.equal(value, silent.model.state_dict()[name])


def result(*texts: str) -> Result:
    said = ["bin blue", "set red", "lay green now"]
    hypotheses = [Hypothesis(str(i), *pair) for i, pair in enumerate(zip(said, texts, strict=True))]
    return Result.of(Condition(Rates(4, 2)), hypotheses, 0)


def test_change_over_rates():
    whole, fine, coarse = (
        result("bin blue", "set red", "lay now"),
        result("bin", "set red", ""),
        result("", "set", "lay now"),
    )
    found = load("no_experts").compared([(whole, fine), (whole, coarse)])
    assert found["wer_with_experts"] == pytest.approx(2 / 14)
    assert found["wer"] == pytest.approx((4 + 4) / 14)
    assert found["change"] == pytest.approx(6 / 14)
    low, high = found["change_ci95"]
    assert (low, high) == (1 / 4, 3 / 4), "of the second clip alone, and of the first"


def test_what_the_card_says():
    levels = [
        {"snr_db": None, "wer_with_experts": 0.033, "wer": 0.037, "change_ci95": [-0.001, 0.009]},
        {"snr_db": 0.0, "wer_with_experts": 0.08, "wer": 0.09, "change_ci95": [0.001, 0.02]},
    ]
    text = load("bundle").experts(levels)
    assert "3.7 % instead of 3.3 % in clean speech (95 % interval of the difference −0.1 to +0.9)" in text
    assert "9.0 % instead of 8.0 % in babble at 0 dB (95 % interval of the difference +0.1 to +2.0)" in text
