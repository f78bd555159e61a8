"""Rates are read from the widths of projectors of stacked frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mome
from mome.convert.avsr import Sources, convert
from mome.errors import MomeError
from tests.conftest import Golden
from tests.convert.published import HIDDEN, WIDTH, backbones, published, random_case


def stacking(tmp_path, sides: str, **rates: list[int]) -> tuple[Golden, Sources]:
    """A case of Llama-MTSK with projectors for these rates of stacked frames, and its backbones."""
    case = random_case("llama-mtsk", sides)
    sources = replace(backbones(case, tmp_path), audio_rates=None, video_rates=None)
    for key in [key for key in case.state if key.startswith(("audio_proj.", "video_proj."))]:
        del case.state[key]
    for side, factors in rates.items():
        for i, factor in enumerate(factors):
            for end, shape in (("0", (HIDDEN, factor * WIDTH)), ("2", (WIDTH, HIDDEN))):
                case.state[f"{side}_proj.{i}.{end}.weight"] = torch.randn(shape)
                case.state[f"{side}_proj.{i}.{end}.bias"] = torch.randn(shape[0])
    return case, sources


@pytest.mark.parametrize(
    "rates",
    [
        {"video": [1, 2, 3, 4, 5]},
        {"video": [2, 1]},
        {"audio": [4, 16], "video": [1, 2]},
        {"audio": [1], "video": [3]},
    ],
)
def test_a_rate_of_1_may_be_among_them(tmp_path, rates):
    case, sources = stacking(tmp_path, " ".join(rates), **rates)
    convert("llama-mtsk", published(case, tmp_path), tmp_path / "out", sources)
    model = mome.load(tmp_path / "out").model
    assert model.config.compression == "stack"
    assert {side: getattr(model.config, f"{side}_rates") for side in rates} == rates
    for side, factors in rates.items():
        for i in range(len(factors)):
            ours = model.state_dict()[f"connector.{side}.{i}.0.weight"]
            assert torch.equal(ours, case.state[f"{side}_proj.{i}.0.weight"])


def test_other_rates_than_told_are_refused(tmp_path):
    case, sources = stacking(tmp_path, "video", video=[1, 2])
    sources = replace(sources, video_rates=[2, 5])
    with pytest.raises(MomeError, match=r"--video-rates 2,5 does not fit .*, which stacks 1,2"):
        convert("llama-mtsk", published(case, tmp_path), tmp_path / "out", sources)


@pytest.mark.parametrize(
    ("factors", "damaged", "message"),
    [
        ([1, 1, 2], None, r"has 3 video projectors, and --video-rates are 2 \(2,5\)"),
        ([1, 1, 2], [2, 3, 4], r"video_proj\.2\.0\.weight is \(12, 32\) instead of \(12, 16\)"),
        ([3, 3], [3, 4], r"video_proj\.0\.0\.weight is \(12, 48\) instead of \(12, 16\)"),
    ],
)
def test_projectors_of_one_width_do_not_stack(tmp_path, factors, damaged, message):
    case, sources = stacking(tmp_path, "video", video=factors)
    sources = replace(sources, video_rates=damaged)
    with pytest.raises(MomeError, match=message):
        convert("llama-mtsk", published(case, tmp_path), tmp_path / "out", sources)


def test_a_projector_that_does_not_tell_its_rate_is_named(tmp_path):
    case, sources = stacking(tmp_path, "video", video=[1, 2, 3])
    path = published(case, tmp_path, {"video_proj.2.0.weight": None})
    with pytest.raises(MomeError, match=r"\(1 difference\): video_proj\.2\.0\.weight is missing"):
        convert("llama-mtsk", path, tmp_path / "out", sources)
