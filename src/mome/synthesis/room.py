"""From clean synthetic speech to a recording: colour of microphone and room, level and noise floor."""

from __future__ import annotations

import math

import numpy as np
from scipy import signal

from mome.media import SAMPLE_RATE


def resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Bring float samples at ``sample_rate`` Hz to 16 kHz, float64."""
    common = math.gcd(SAMPLE_RATE, sample_rate)
    resampled: np.ndarray = signal.resample_poly(
        samples.astype(np.float64), SAMPLE_RATE // common, sample_rate // common
    )
    return resampled


def record(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour ``speech`` (float, 16 kHz, silence included) as a random microphone and room would.

    Returns float32 of the same length, not delayed, its peak below 1.
    """
    tones = np.linspace(0.0, 1.0, 9)
    gains = 10 ** (rng.uniform(-4.0, 4.0, len(tones)) / 20)
    equaliser = signal.firwin2(65, tones, gains)
    sound = signal.fftconvolve(speech, equaliser, mode="full")[32 : 32 + len(speech)]
    if rng.random() < 0.6:
        seconds = rng.uniform(0.08, 0.3)
        tail = rng.standard_normal(int(seconds * SAMPLE_RATE))
        tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail))
        tail[: int(0.002 * SAMPLE_RATE)] = 0.0
        tail *= 10 ** (rng.uniform(-20.0, -9.0) / 20) / np.sqrt(np.sum(tail**2))
        sound = sound + signal.fftconvolve(sound, tail, mode="full")[: len(sound)]
    peak = float(np.max(np.abs(sound)))
    sound = sound * (10 ** (rng.uniform(-14.0, -1.5) / 20) / max(peak, 1e-9))
    loudness = float(np.sqrt(np.mean(sound**2)))
    hiss = rng.standard_normal(len(sound))
    hum = signal.lfilter([1.0], [1.0, -0.97], hiss)
    share = rng.uniform(0.0, 1.0)
    floor = (1 - share) * hiss / np.std(hiss) + share * hum / np.std(hum)
    floor *= loudness * 10 ** (-rng.uniform(28.0, 50.0) / 20) / max(float(np.std(floor)), 1e-9)
    recorded: np.ndarray = np.clip(sound + floor, -0.999, 0.999).astype(np.float32)
    return recorded
