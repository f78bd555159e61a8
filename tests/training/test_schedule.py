"""Which rates a step trains and which the validation is at."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from mome.connectors.resampler import resampled_length
from mome.errors import MomeError
from mome.rates import Rates, RateSet
from mome.training.recipe import ValidationRecipe
from mome.training.schedule import RateSchedule, TopKSchedule

RATE_SET = RateSet((4, 8, 16), (2, 5))
ALL = tuple(RATE_SET.rates())


def test_matryoshka_training_takes_all_rates_in_every_step():
    for count in (None, len(ALL), 99):
        schedule = RateSchedule(ALL, seed=3, count=count)
        assert [schedule(step) for step in range(5)] == [list(ALL)] * 5


@pytest.mark.parametrize("count", [1, 3])
def test_a_number_of_rates_drawn_evenly(count):
    schedule = RateSchedule(ALL, seed=3, count=count)
    drawn = [schedule(step) for step in range(2000)]
    assert all(len(set(rates)) == count for rates in drawn)
    assert all(sorted(rates, key=ALL.index) == rates for rates in drawn)
    counts = Counter(rates for step in drawn for rates in step)
    expected, spread = 2000 * count / len(ALL), math.sqrt(2000 * count / len(ALL))
    assert set(counts) == set(ALL)
    assert all(abs(times - expected) < 5 * spread for times in counts.values())


def test_one_rate_of_each_modality_for_all_tasks():
    schedule = RateSchedule(ALL, seed=3, one_per_task=True)
    pairs = Counter()
    for step in range(1200):
        both, asr, vsr = schedule(step)
        assert (both.task, asr.task, vsr.task) == ("avsr", "asr", "vsr")
        assert (asr.audio, vsr.video) == (both.audio, both.video)
        pairs[both] += 1
    assert set(pairs) == set(RATE_SET.rates(["avsr"]))
    assert all(abs(times - 200) < 5 * math.sqrt(200) for times in pairs.values())


@pytest.mark.parametrize(
    ("rates", "tasks"),
    [
        (RateSet((4, 16), (2, 5), ("avsr",)).rates(), ["avsr"]),
        (RateSet((4, 16), (), ("asr",)).rates(), ["asr"]),
        (RateSet((), (2, 5), ("vsr",)).rates(), ["vsr"]),
        (RateSet((4, 16), (2, 5), ("asr", "vsr")).rates(), ["asr", "vsr"]),
    ],
)
def test_one_rate_for_each_of_some_tasks(rates, tasks):
    rates = list(rates)
    schedule = RateSchedule(rates, seed=0, one_per_task=True)
    drawn = [schedule(step) for step in range(80)]
    assert all([one.task for one in step] == tasks for step in drawn)
    assert {one for step in drawn for one in step} == set(rates)


def test_numbers_of_tokens_drawn_evenly():
    schedule = RateSchedule(list(RateSet((4,), (2,), ("avsr", "asr")).rates()), seed=3, up_to=32)
    drawn = [schedule(step) for step in range(4000)]
    for both, asr in drawn:
        assert (both.task, asr) == ("avsr", Rates(both.audio, None))
    for modality, frames in (("audio", 150), ("video", 75)):
        rates = [getattr(both, modality) for both, _ in drawn]
        assert 1 <= min(rates) < max(rates) <= 32
        tokens = Counter(resampled_length(frames, rate, 150) for rate in rates)
        middle = range(frames // 32 + 1, frames)  # of the ends only a part can be drawn
        assert set(middle) <= set(tokens)
        expected = len(rates) / (frames * (1 - 1 / 32))
        assert all(abs(tokens[count] - expected) < 5 * math.sqrt(expected) for count in middle)
    pairs = [(1 / both.audio, 1 / both.video) for both, _ in drawn]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.1


@pytest.mark.parametrize("options", [{"count": 2}, {"one_per_task": True}, {"up_to": 32}])
def test_seed_and_step_tell_the_rates(options):
    first, again, other = (RateSchedule(ALL, seed, **options) for seed in (5, 5, 6))
    steps = list(range(40))
    drawn = [first(step) for step in steps]
    assert [again(step) for step in reversed(steps)] == drawn[::-1], "steps may be asked for in any order"
    assert [other(step) for step in steps] != drawn
    assert len({tuple(rates) for rates in drawn}) > 3


@pytest.mark.parametrize("options", [{"count": 2}, {"one_per_task": True}, {"up_to": 32}])
def test_a_process_own_randomness_has_no_part(options):
    """Processes that trained different rates in a step would wait for each other's gradients for ever."""
    drawn = []
    for process in range(3):
        random.seed(process)
        np.random.seed(process)  # noqa: NPY002
        torch.manual_seed(process)
        schedule = RateSchedule(ALL, 7, **options)
        drawn.append([schedule(step) for step in range(20)])
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    ("rate_set", "expected"),
    [
        (RATE_SET, ["4,2", "16,5", "4,-", "16,-", "-,2", "-,5"]),
        (RateSet((4, 16), (2, 5), ("avsr",)), ["4,2", "16,5"]),
        (RateSet((4,), (2,), ("avsr",)), ["4,2"]),
        (RateSet((), (1, 2, 3), ("vsr",)), ["-,1", "-,3"]),
        (RateSet((20, 4), (), ("asr",)), ["4,-", "20,-"]),
    ],
)
def test_validation_is_at_the_finest_and_the_coarsest_of_each_task(rate_set, expected):
    assert [str(one) for one in ValidationRecipe().rates_of(rate_set)] == expected


def test_validation_rates_that_are_given():
    assert ValidationRecipe(rates=[]).rates_of(RATE_SET) == []
    assert ValidationRecipe(rates=["8,5", "-,2"]).rates_of(RATE_SET) == [Rates(8, 5), Rates(None, 2)]
    with pytest.raises(MomeError, match=r"\(4,3\) are not in this model's rate set"):
        ValidationRecipe(rates=["4,3"]).rates_of(RATE_SET)
    with pytest.raises(MomeError, match="ask for vsr, which this model was not made for"):
        ValidationRecipe(rates=["-,2"]).rates_of(RateSet((4,), (2,), ("avsr", "asr")))


def test_numbers_of_experts_drawn_evenly_by_seed_and_step():
    schedule, again, other = (TopKSchedule([1, 2, 4], seed) for seed in (5, 5, 6))
    steps = list(range(1500))
    drawn = [schedule(step) for step in steps]
    assert [again(step) for step in reversed(steps)] == drawn[::-1], "a resumed run asks for the later steps alone"
    assert [other(step) for step in steps] != drawn
    counts = Counter(drawn)
    assert set(counts) == {1, 2, 4}
    assert all(abs(times - 500) < 5 * math.sqrt(500) for times in counts.values())
    assert TopKSchedule(None, 5)(3) is None


def test_rates_and_numbers_of_experts_are_drawn_apart():
    rates, numbers = RateSchedule(ALL[:4], 5, count=1), TopKSchedule([1, 2, 3, 4], 5)
    pairs = Counter((ALL.index(rates(step)[0]), numbers(step)) for step in range(1600))
    assert len(pairs) == 16
    assert all(abs(times - 100) < 50 for times in pairs.values())
