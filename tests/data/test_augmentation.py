from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.data.augmentation import Augmentation, FeatureMasks, time_masks
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


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_misread_tokens_are_a_share_and_the_batchs(share):
    lengths = (1, 400, 300)
    labels = torch.full((3, 400), -100)
    for row, length in zip(labels, lengths, strict=True):
        row[:length] = torch.arange(length) % 97 + 3
        row[length - 1] = 2  # the end
    given = labels.clone()
    augment = Augmentation(token_noise=share)
    read = augment.misread(labels, lengths, [rng(seed) for seed in range(3)])
    assert torch.equal(labels, given), "the labels stay"
    assert torch.equal(read == -100, given == -100)
    assert all(row[length - 1] == 2 for row, length in zip(read, lengths, strict=True))
    changed = (read != given).float()
    for row, length in zip(changed[1:], lengths[1:], strict=True):
        assert row.sum() / (length - 1) == pytest.approx(share * 96 / 97, abs=0.06)  # one in 97 is drawn as it was
    assert set(read.unique().tolist()) <= {-100, 2, *range(3, 100)}
    assert torch.equal(read, augment.misread(labels, lengths, [rng(seed) for seed in range(3)]))
    alone = augment.misread(labels[1:2, :2], [2], [rng(0)])
    assert torch.equal(alone, labels[1:2, :2]), "a clip of one word, alone in its batch, has no other"


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


def masked(masks: FeatureMasks, seed: int, frames: int = 200, width: int = 64) -> np.ndarray:
    whole = torch.ones(frames, width)
    zeroed = masks(whole, rng(seed)).numpy() == 0
    assert whole.all(), "a copy is masked"
    return zeroed


def test_spans_of_time_and_of_features_are_masked():
    spans, lines = [], []
    for seed in range(300):
        time = masked(FeatureMasks(time=1.5, time_width=4), seed)
        assert (time.all(1) == time.any(1)).all()
        assert max(runs(time.all(1)), default=0) <= 3 * 4
        spans.append(time.mean())
        channels = masked(FeatureMasks(channels=2, channel_width=8), seed)
        assert (channels.all(0) == channels.any(0)).all()
        assert len(runs(channels.all(0))) <= 2
        lines.append(channels.mean())
    # 1.5 for each 100 of 200 frames, and 2, of 2 frames and 4 features in the mean, with few that overlap.
    assert np.mean(spans) == pytest.approx(3 * 2 / 200, rel=0.1)
    assert np.mean(lines) == pytest.approx(2 * 4 / 64, rel=0.15)
    both = masked(FeatureMasks(1.5, 4, 2, 8), 0)
    assert both.all(1).any()
    assert both.all(0).any()


def test_half_a_span_is_masked_in_half_of_the_clips():
    share = np.mean([masked(FeatureMasks(time=1, time_width=50), seed, frames=50).any() for seed in range(400)])
    assert share == pytest.approx(0.5 * 50 / 51, abs=0.08)


def test_without_masks_nothing_is_drawn():
    generator, frames = rng(3), torch.ones(9, 4)
    assert FeatureMasks()(frames, generator) is frames
    assert generator.random() == rng(3).random()
