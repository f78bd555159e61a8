"""Differences to a control over the same clips."""

from __future__ import annotations

import pytest

from mome.evaluation.result import Condition, Hypothesis, Result, change
from mome.rates import Rates


def result(texts: dict[str, str]) -> Result:
    said = {"a": "bin blue", "b": "set red", "c": "lay green now"}
    return Result.of(Condition(Rates(4, 2)), [Hypothesis(name, said[name], text) for name, text in texts.items()], 0)


def test_only_common_clips_count_and_the_interval_is_paired():
    control = result({"c": "lay green now", "a": "bin", "b": ""})
    worse = result({"a": "", "b": "set"})
    found = change([(worse, control)], seed=0)
    assert found is not None
    assert found.wer == pytest.approx((2 + 1 - 1 - 2) / 4)
    assert found.clips == 2
    assert found.ci95 == (-1 / 2, 1 / 2), "of the second clip alone, and of the first"


def test_a_constant_difference_has_no_width():
    control, worse = result({"a": "bin", "b": "set"}), result({"a": "", "b": ""})
    found = change([(worse, control)], seed=0)
    assert found is not None
    assert (found.wer, found.ci95) == (0.5, (0.5, 0.5))
    back = change([(control, worse)], seed=0)
    assert back is not None
    assert back.wer == -0.5


def test_without_a_common_clip_there_is_none():
    assert change([(result({"a": "bin blue"}), result({"b": "set red"}))], seed=0) is None
