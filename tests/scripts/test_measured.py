"""The comparison's uncertainty, against closed forms."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "scripts" / "comparison" / "measured.py"


@pytest.fixture(scope="module")
def measured():
    spec = importlib.util.spec_from_file_location("measured", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "measured", module)  # its dataclass looks there for its types
        spec.loader.exec_module(module)
    return module


def row(errors: np.ndarray, **more: object) -> dict:
    words = 6 * len(errors)
    told = " ".join(str(count) for count in errors)
    return {"wer": int(errors.sum()) / words, "words": words, "clips": len(errors), "clip_errors": told, **more}


def cell(module, *trainings: np.ndarray, seeds=(1, 2, 3)):
    return module.Cell([row(errors) for errors in trainings], list(seeds[: len(trainings)]))


def draw(seed: int, mean: float = 0.5, clips: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, clips)


def test_mean_and_interval_of_one_training(measured):
    errors = draw(0)
    found = cell(measured, errors)
    assert found.mean == pytest.approx(100 * errors.sum() / 1200)
    half = 1.96 * errors.std() / math.sqrt(200) * 100 / 6
    low, high = found.interval
    assert (found.mean - low, high - found.mean) == (pytest.approx(half, rel=0.15), pytest.approx(half, rel=0.15))


def test_trainings_that_differ_widen_the_interval(measured):
    same, apart = (cell(measured, *(draw(0) + add for add in adds)) for adds in ((0, 0, 0), (0, 1, 2)))
    spans = [high - low for low, high in (same.interval, apart.interval)]
    assert spans[1] > 3 * spans[0]
    assert apart.mean == pytest.approx(same.mean + 100 / 6)


def test_what_is_hard_for_both_drops_out_of_a_difference(measured):
    errors = [draw(seed) for seed in (0, 1)]
    base, more = cell(measured, *errors), cell(measured, *(each + 1 for each in errors))
    assert base.difference(base) == (0, 0, 0)
    assert more.difference(base) == pytest.approx((100 / 6,) * 3)
    assert base.difference(more) == pytest.approx((-100 / 6,) * 3)


def test_clips_of_different_lengths(measured):
    """The error rate is a ratio of sums; its deviation is that of the errors less the expected ones, linearised."""
    rng = np.random.default_rng(0)
    words = rng.integers(2, 40, 400)
    errors = rng.binomial(words, 0.2) + rng.poisson(2, 400)
    mine = {"wer": errors.sum() / words.sum(), "words": int(words.sum()), "clips": 400}
    mine |= {f"clip_{name}": " ".join(map(str, each)) for name, each in (("errors", errors), ("words", words))}
    found = measured.Cell([mine], [1])
    half = 1.96 * 100 * (errors - mine["wer"] * words).std() / math.sqrt(400) / words.mean()
    low, high = found.interval
    assert (found.mean - low, high - found.mean) == (pytest.approx(half, rel=0.1), pytest.approx(half, rel=0.1))
    worse = {**mine, "clip_errors": " ".join(map(str, errors + words)), "wer": mine["wer"] + 1}
    assert measured.Cell([worse], [1]).difference(found) == pytest.approx((100, 100, 100)), "a word in each word"


def test_only_the_same_seeds_are_compared(measured):
    first, second, third = (draw(seed) for seed in (0, 1, 2))
    mine, theirs = cell(measured, first, second), cell(measured, third, second, seeds=(4, 2))
    assert mine.difference(theirs) == (0, 0, 0), "seed 2 alone, where both made the same errors"
    assert mine.difference(cell(measured, third, seeds=(9,))) is None


def test_files_of_the_comparison_and_of_other_systems(measured, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "outside").mkdir()
    for seed in (1, 2):
        document = {"system": "a", "training": {"seed": seed}, "parameters": {"adapter_active": 5}}
        document["results"] = [row(draw(seed), rates="4,2", snr_db=None), row(draw(seed), rates="4,2", snr_db=0.0)]
        (tmp_path / "ours" / f"a-{seed}.json").write_text(json.dumps(document))
    scored = {"system": "b", "wer": 0.25, "ci95": [0.2, 0.3], "snr_db": None, "clips": 200, "words": 1200}
    rows = [{**scored, "task": "avsr", "rates": "4,2"}, {**scored, "task": "asr", "rates": None}]
    (tmp_path / "outside" / "b.json").write_text(json.dumps({"results": rows}))
    found = measured.Measured(tmp_path / "ours", tmp_path / "outside")
    assert (found.seeds("a"), found.seeds("b"), found.outside) == (2, 0, ["b"])
    assert found.cell("a", "4,2", 0.0).seeds == [1, 2]
    assert found.cell("a", "4,5") is None
    assert (found.cell("b", "4,2").mean, found.cell("b", "asr").interval) == (25, (20, 30))
    for change, message in (
        ({"task": None}, "does not say the task of b: score it again with --task"),
        ({"system": "a"}, "calls its system a, as one of ours is: rename it"),
        ({"clips": 5, "words": 30}, "has 5 clips with 30 words, ours 200 with 1200: score the transcripts of the same"),
    ):
        (tmp_path / "outside" / "b.json").write_text(json.dumps({"results": [{**rows[0], **change}]}))
        with pytest.raises(SystemExit, match=message):
            measured.Measured(tmp_path / "ours", tmp_path / "outside")


def test_losses_are_compared_clip_by_clip(measured, tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, 60)
    hard = rng.normal(3, 1, 60)
    for system, more in (("base", 0.0), ("worse", 0.1)):
        for seed in (1, 2):
            losses = hard + more + rng.normal(0, 0.02, 60)
            document = {"system": system, "parameters": {}, "training": {"seed": seed}}
            document["results"] = [{"rates": "4,-", "snr_db": None, **row(draw(seed, clips=60))}]
            document |= {"clip_losses": {"4,-": " ".join(map(str, losses))}, "clip_tokens": " ".join(map(str, tokens))}
            (tmp_path / f"{system}-{seed}.json").write_text(json.dumps(document))
    found = measured.Measured(tmp_path, tmp_path / "none")
    base, worse = (found.cell(system, "4,-", measured.LOSS) for system in ("base", "worse"))
    assert base.mean == pytest.approx((hard * tokens).sum() / tokens.sum(), abs=0.01)
    assert base.interval[1] - base.interval[0] > 0.3
    change, low, high = worse.difference(base)
    assert (change, low, high) == (
        pytest.approx(0.1, abs=0.01),
        pytest.approx(0.1, abs=0.02),
        pytest.approx(0.1, abs=0.02),
    )
    assert found.cell("base", "4,-").scale == 100
