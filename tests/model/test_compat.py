"""The waveform that the published systems' loop rounds to bfloat16 before Whisper's features are made."""

from __future__ import annotations

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from mome.encoders.base import z_normalize
from mome.encoders.whisper import log_mel
from mome.model.compat import official_log_mel, official_sound

EXTRACTOR = WhisperFeatureExtractor()
SAMPLES, FRAMES = 24_320, 152


def speech() -> np.ndarray:
    """Louder and softer by turns, with an offset."""
    rng = np.random.default_rng(1)
    loudness = 0.02 + 0.1 * np.sin(np.arange(SAMPLES) / 4000) ** 2
    return (loudness * rng.standard_normal(SAMPLES) + 0.01).astype(np.float32)


def features(waveform: np.ndarray) -> np.ndarray:
    return EXTRACTOR(waveform, sampling_rate=16_000, return_tensors="np").input_features[0]


def test_official_features_are_those_of_the_normalised_waveform_rounded_to_eight_significant_bits():
    wave = speech()
    fractions, exponents = np.frexp(z_normalize(wave).astype(np.float64))
    rounded = np.ldexp(np.rint(fractions * 2**8), exponents - 8).astype(np.float32)
    np.testing.assert_allclose(official_log_mel(wave, EXTRACTOR), features(rounded), atol=1e-4)


def test_sound_is_cut_or_padded_with_zeros_to_the_length_of_its_video():
    wave = speech()
    assert np.array_equal(official_sound(wave, 10), wave[:6400])
    longer = official_sound(wave, 40)
    assert (longer.shape, longer.dtype) == ((25_600,), np.float32)
    assert np.array_equal(longer[:SAMPLES], wave)
    assert not longer[SAMPLES:].any()


def test_rounding_is_more_than_noise_of_float32():
    wave = speech()
    official, (actual, frames) = official_log_mel(wave, EXTRACTOR), log_mel(wave, EXTRACTOR, "window")
    assert official.shape == actual.shape == (80, 3000)
    assert official.dtype == np.float32
    assert frames == FRAMES
    assert 1e-4 < np.abs(official - actual)[:, :FRAMES].max() < 0.5
    assert not torch.equal(torch.from_numpy(official).bfloat16(), torch.from_numpy(actual).bfloat16())
