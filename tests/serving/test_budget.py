from __future__ import annotations

import pytest

from mome import Rates
from mome.serving.budget import Budget

FINE, MIDDLE, COARSE = Rates(4, 2), Rates(4, 5), Rates(16, 5)
ALL = (FINE, MIDDLE, COARSE)


def test_the_finest_that_fits():
    budget = Budget(1.0, {FINE: 0.2, MIDDLE: 0.1, COARSE: 0.05})
    assert [budget.choose(ALL, waiting) for waiting in (1, 5, 6, 10, 11, 1000)] == [
        *(FINE, FINE, MIDDLE, MIDDLE),
        *(COARSE, COARSE),
    ]
    assert budget.choose((FINE,), 1000) is FINE


def test_the_cheapest_by_measurement_where_none_fits():
    assert Budget(1.0, {FINE: 0.2, MIDDLE: 0.01, COARSE: 0.05}).choose(ALL, 1000) is MIDDLE


def test_what_was_never_used_is_tried():
    assert Budget(1.0, {FINE: 0.2}).choose(ALL, 100) is MIDDLE
    assert Budget(1.0, {}).choose(ALL, 100) is FINE


def test_costs_are_learnt():
    budget = Budget(1.0, {FINE: 0.2})
    budget.learn([FINE] * 4, 10.0, 4.0, 1.0)
    assert budget.costs[FINE] == pytest.approx(0.7 * 0.2 + 0.3 * 0.4)
    budget.learn([FINE], 10.0, 4.0, 0.0)
    assert budget.costs[FINE] == pytest.approx(0.26)
    budget.learn([MIDDLE, FINE], 10.0, 100.0, 1.0)  # a mixture teaches nothing
    assert budget.costs == {FINE: pytest.approx(0.26)}
    for _ in range(50):
        budget.learn([FINE], 10.0, 4.0, 1.0)
    assert budget.costs[FINE] == pytest.approx(0.4, rel=1e-3)
    assert budget.wait(10.0) == pytest.approx(4.0, rel=1e-3)
    assert budget.wait(0.0) == 1.0
