from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.data.augmentation import Augmentation, time_masks
from mome.media.noise import snr_db

SPEECH = np.random.default_rng(0).uniform(0.1, 0.2, 40_000).astype(np.float32)
NOISES = (np.random.default_rng(1).standard_normal(16_000).astype(np.float32), np.ones(50_000, np.float32))
PIXELS = np.random.default_rng(2).uniform(1, 2, (60, 8, 8)).astype(np.float32)
NOTHING = Augmentation(crop=False, flip=False, time_mask=False)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def runs(blank: np.ndarray) -> list[int]:
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], blank.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@settings(deadline=None)
@given(st.integers(0, 200_000), st.sampled_from([25, 16_000]), st.integers(0, 1000))
def test_time_masks(length, rate, seed):
    spans = time_masks(length, rate, rng(seed))
    assert len(spans) <= math.ceil(length / rate)
    for span in spans:
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start < 0.4 * rate


def test_masked_spans_of_both_streams():
    augment = Augmentation(crop=False, flip=False)
    shares = []
    for seed in range(20):
        blank = augment.audio(SPEECH, rng(seed)) == 0
        assert max(runs(blank), default=0) < 3 * 0.4 * 16_000  # three masks for 2.5 s, which may touch
        shares.append(blank.mean())
        frames = (augment.mask_video(PIXELS, rng(seed)) == 0).reshape(60, -1)
        assert (frames.all(1) == frames.any(1)).all()
        assert max(runs(frames.all(1)), default=0) < 3 * 10
    assert 0.05 < np.mean(shares) < 0.35
    assert SPEECH.all()  # the clip itself is left alone
    assert PIXELS.all()


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("time_mask", [False, True])
def test_noise_at_the_snr_asked_for(snr, time_mask):
    plain, noisy = (Augmentation(noises, (snr,), time_mask=time_mask) for noises in ((), NOISES))
    for seed in range(5):
        speech = plain.audio(SPEECH, rng(seed))
        mixed = noisy.audio(SPEECH, rng(seed))
        assert mixed.dtype == np.float32
        assert snr_db(speech, mixed.astype(float) - speech) == pytest.approx(snr, abs=0.01)


def test_every_snr_is_drawn_and_infinity_is_clean():
    augment = Augmentation(NOISES, (0.0, 10.0, math.inf), time_mask=False)
    drawn = {round(snr_db(SPEECH, augment.audio(SPEECH, rng(seed)).astype(float) - SPEECH), 1) for seed in range(40)}
    assert drawn == {0.0, 10.0, math.inf}
    assert not Augmentation(NOISES, (0.0,)).audio(np.zeros(8000, np.float32), rng(0)).any()  # silence stays silent


def test_the_generator_decides_everything():
    augment = Augmentation(NOISES, (0.0, 10.0))
    same, again, other = (augment.audio(SPEECH, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)
    same, again, other = (augment.mask_video(PIXELS, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)
    assert augment.video_geometry(rng(1)) == augment.video_geometry(rng(1))


def test_crops_and_flips():
    generator = rng(0)
    drawn = [Augmentation().video_geometry(generator) for _ in range(600)]
    offsets = {offset for offset, _ in drawn}
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(9))
    assert 0.4 < np.mean([flip for _, flip in drawn]) < 0.6
    assert NOTHING.video_geometry(rng(0)) == (None, False)


def test_everything_can_be_switched_off():
    assert np.array_equal(NOTHING.audio(SPEECH, rng(0)), SPEECH)
    assert np.array_equal(NOTHING.mask_video(PIXELS, rng(0)), PIXELS)
