from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.decoding.word_times import head_times, token_times


def looking(spans: list[tuple[int, int]], size: int, heads: int = 3, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Attention of tokens that each look at a span of the clip's tokens; the last, which ends the text, at none."""
    scores = noise * np.random.default_rng(seed).standard_normal((heads, len(spans) + 1, size))
    for token, (first, last) in enumerate(spans):
        scores[:, token, first:last] += 4.0
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


SPANS = [(3, 5), (5, 9), (14, 16), (16, 17)]  # silence before, between and after


@pytest.mark.parametrize("seconds", [0.04, 0.08, 0.32])
def test_times_are_those_of_the_path_that_the_attention_shows(seconds):
    times = token_times(looking(SPANS, 30), seconds)[:-1]
    assert np.abs(times - seconds * np.array(SPANS)).max() <= 0.5 * seconds + 0.02


def test_heads_that_look_nowhere_or_anywhere_do_not_matter():
    weights = looking(SPANS, 30, heads=8, noise=0.3)
    anywhere = np.exp(np.random.default_rng(1).standard_normal((2, 5, 30)))
    rest = [np.full((4, 5, 30), 1 / 30), anywhere / anywhere.sum(-1, keepdims=True)]
    times = token_times(np.concatenate([weights, *rest]), 0.08)[:-1]
    assert np.abs(times - 0.08 * np.array(SPANS)).max() <= 0.08


def said(frames: list[int], size: int) -> np.ndarray:
    """Evidence of a head that says each token in one frame, and is sure of nothing in all others."""
    evidence = np.full((len(frames), size), -20.0)
    evidence[np.arange(len(frames)), frames] = 8.0
    return evidence


def test_a_head_says_a_token_in_the_midst_of_it():
    times = head_times(said([6, 14, 15, 28], 40), 0.08)
    first, second, third, last = times
    assert np.abs(first - 0.08 * np.array([5, 9])).max() <= 0.04
    assert second[0] == pytest.approx(0.08 * 13, abs=0.04)
    assert second[1] == pytest.approx(third[0], abs=0.041), "no pause is between them"
    assert np.abs(last - 0.08 * np.array([27, 31])).max() <= 0.04
    close, after = head_times(said([6, 8], 40), 0.08)
    assert close[1] == pytest.approx(after[0]), "they share the pause between them"
    assert head_times(said([0, 39], 40), 0.08)[[0, 1], [0, 1]] == pytest.approx([0, 3.2]), "inside the clip"


def test_a_head_that_says_nothing_gives_no_times():
    assert head_times(np.zeros((0, 40)), 0.08).shape == (0, 2)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 15))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shapes, st.sampled_from([0.02, 0.08, 0.64]), st.integers(0, 99), st.floats(0, 20))
def test_times_are_in_order_and_inside_the_clip_whatever_they_are_found_by(shape, seconds, seed, contrast):
    scores = contrast * np.random.default_rng(seed).standard_normal(shape)
    weights = np.exp(scores)
    check(token_times(weights / weights.sum(-1, keepdims=True), seconds), shape, seconds)
    check(head_times(scores[0], seconds), shape, seconds)


def check(times: np.ndarray, shape: tuple[int, int, int], seconds: float) -> None:
    assert times.shape == (shape[1], 2)
    assert times[0, 0] >= 0
    assert times[-1, 1] <= shape[2] * seconds + 1e-9
    assert (times[:, 1] > times[:, 0]).all(), "every token takes some time, also if there are more than places"
    assert (times[1:, 0] >= times[:-1, 1] - 1e-9).all()
