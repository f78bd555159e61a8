from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.data.sampling import FrameBudgetSampler
from mome.errors import MomeError

LENGTHS = [75, 75, 75, 75, 50, 60, 60, 75, 30, 31, 75, 75]


def batches(sampler: FrameBudgetSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert {number for batch in drawn for _, number in batch} == {epoch}
    return [[index for index, _ in batch] for batch in drawn]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    budget=st.integers(100, 400),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 50),
)
def test_every_clip_once_and_never_over_the_budget(lengths, budget, seed, epoch):
    sampler = FrameBudgetSampler(lengths, budget, seed)
    drawn = batches(sampler, epoch)
    assert sorted(index for batch in drawn for index in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[index] for index in batch) <= budget for batch in drawn)
    assert len(drawn) == len(sampler)
    # Filled greedily: no two batches would fit into one.
    sizes = sorted(((max(lengths[i] for i in batch), len(batch)) for batch in drawn), reverse=True)
    assert all((count + 1) * longest > budget for longest, count in sizes[:-1])


def test_the_order_is_told_by_seed_and_epoch_alone():
    first, second = FrameBudgetSampler(LENGTHS, 200, 7), FrameBudgetSampler(LENGTHS, 200, 7)
    later = batches(first, 3)
    for epoch in range(3):
        batches(second, epoch)
    assert batches(second, 3) == later
    orders = [batches(first, epoch) for epoch in range(5)]
    assert len({str(order) for order in orders}) == 5
    # Clips of equal length change their company, not only the batches their order.
    assert len({str(sorted(map(sorted, order))) for order in orders}) > 1
    assert batches(FrameBudgetSampler(LENGTHS, 200, 8), 3) != later


def test_clips_without_a_length_are_left_out():
    some = FrameBudgetSampler([75, 0, 50, 60, 0], 150)
    assert [sorted(index for batch in batches(some, epoch) for index in batch) for epoch in (0, 1)] == [[0, 2, 3]] * 2
    with pytest.raises(MomeError, match="no clips"):
        FrameBudgetSampler([0, 0], 100)


def test_what_does_not_fit():
    with pytest.raises(MomeError, match=r"longest training clip has 75 frames, more than data\.max_frames=74"):
        FrameBudgetSampler(LENGTHS, 74)
    with pytest.raises(MomeError, match=r"has 75 frames, more than .*: raise it, or take out of the manifest a, c, b$"):
        FrameBudgetSampler([60, 75, 10, 61], 59, names=["b", "a", "d", "c"])
    with pytest.raises(MomeError, match="no clips"):
        FrameBudgetSampler([], 100)
