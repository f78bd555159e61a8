"""Rates as they are written, and the grids that have them."""

from __future__ import annotations

import pytest

from mome import MomeError, Rates, RateSet


@pytest.mark.parametrize(
    ("text", "audio", "video", "task"),
    [
        ("4,2", 4, 2, "avsr"),
        (" (16, 5) ", 16, 5, "avsr"),
        ("4,-", 4, None, "asr"),
        ("-,2", None, 2, "vsr"),
        ("2.5,1", 2.5, 1, "avsr"),
        ("4.0,2.00", 4, 2, "avsr"),
    ],
)
def test_what_is_written(text, audio, video, task):
    rates = Rates.parse(text)
    assert (rates.audio, rates.video, rates.task) == (audio, video, task)
    assert all(isinstance(rate, int) for rate in (rates.audio, rates.video) if rate not in (None, 2.5))
    assert Rates.parse(str(rates)) == rates
    assert Rates.parse(rates) is rates


@pytest.mark.parametrize("text", ["4", "4;2", "a,b", "4,2,1", "-4,2", "4.,2", "1e3,2", ""])
def test_what_cannot_be_read(text):
    with pytest.raises(MomeError, match="write AUDIO,VIDEO as in 4,2"):
        Rates.parse(text)


@pytest.mark.parametrize(("audio", "video"), [(0, 2), (0.5, 2), (4, float("nan")), (float("inf"), 2)])
def test_impossible_rates(audio, video):
    with pytest.raises(MomeError, match="a rate is a number from 1 up"):
        Rates(audio, video)


def test_both_left_out():
    with pytest.raises(MomeError, match="leave out both"):
        Rates.parse("-,-")


def test_a_grid_has_its_rates_in_its_tasks():
    grid = RateSet((16, 4, 4), (5, 2), ("avsr", "asr"))
    assert [str(one) for one in grid.rates()] == ["4,2", "4,5", "16,2", "16,5", "4,-", "16,-"]
    assert grid.check(Rates(4, 5)) == Rates(4, 5)
    for rates, message in (
        (Rates(4, 3), "audio rates 4, 16 and video rates 2, 5, for avsr, asr only"),
        (Rates(4.5, 2), r"rates \(4.5,2\) are not in this model's rate set"),
        (Rates(None, 2), "ask for vsr, which this model was not made for"),
    ):
        assert rates not in grid
        with pytest.raises(MomeError, match=message):
            grid.check(rates)


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ("16,2", ["16,2"]),
        ("4,-", ["4,-"]),
        ("avsr", ["4,2", "4,5", "16,2", "16,5"]),
        ("vsr", ["-,2", "-,5"]),
    ],
)
def test_a_part_of_a_grid(which, left):
    grid = RateSet((4, 16), (2, 5)).only(which)
    assert [str(one) for one in grid.rates()] == left
    assert grid.only(which) == grid
    with pytest.raises(MomeError, match=r"rates \(4,5\)|rates \(-,2\)"):
        grid.check(Rates(4, 5) if which != "avsr" else Rates(None, 2))


def test_what_is_no_part_of_a_grid():
    with pytest.raises(MomeError, match=r"'8,2' is no part of this model's rate set: audio rates 4"):
        RateSet((4,), (2,)).only("8,2")


def test_an_open_grid_has_any_rates_of_its_modalities():
    grid = RateSet((4,), (), ("asr",), open=True)
    assert [str(one) for one in grid.rates()] == ["4,-"]
    assert Rates(7.25, None) in grid
    assert Rates(4, 2) not in grid
    with pytest.raises(MomeError, match="or any other"):
        grid.check(Rates(None, 2))


def test_main_rates_use_all_that_the_model_has():
    assert RateSet((4, 16), (2,)).main_rates() == [Rates(4, 2), Rates(16, 2)]
    assert RateSet((), (2, 5)).main_rates() == [Rates(None, 2), Rates(None, 5)]
