"""Noise mixed into speech at an exact signal-to-noise ratio, repeatably for each clip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mome.errors import MomeError
from mome.media.decode import Damage, naming, probe
from mome.media.sound import read_audio

# A stretch of noise counts as silent below this part of the whole recording's mean power (-20 dB).
_AUDIBLE = 0.01
_DRAWS = 8
# Beyond these, one of the two is below float32's resolution of the other.
_LARGEST_SNR = 100.0


def load_noise(path: str | Path) -> np.ndarray:
    """The sound of a file as (samples,) float32, 16 kHz mono.

    Raises :class:`MomeError` naming the file if it cannot be read, is beyond the limits of :mod:`mome.media.limits`,
    has no sound or is silent throughout.
    """
    path = Path(path)
    with naming(path):
        noise = read_audio(probe(path), Damage())
    if noise is None:
        raise MomeError(f"{path} has no sound: give a recording of noise")
    if not noise.any():
        raise MomeError(f"{path} is silent: give a recording of noise")
    return noise


def clip_rng(seed: int, clip_id: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the clip's id only: the same in every run and order."""
    digest = hashlib.blake2b(f"{seed}:{clip_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def snr_db(speech: np.ndarray, noise: np.ndarray) -> float:
    """Ratio in dB of the mean powers of two waveforms; infinite when one of them is silent."""
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(_power(speech)) - np.log10(_power(noise))))


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add a random stretch of ``noise`` to ``speech`` so that the ratio of their mean powers is ``snr_db``.

    Both are (samples,) at the same rate. Noise that is shorter than the speech is repeated; stretches where
    the noise pauses are avoided. Returns (samples,) float32, as long as ``speech`` and not clipped: it may
    leave [-1, 1]. Raises :class:`MomeError` if speech or noise is silent or empty, or the ratio is not
    between -100 and 100 dB.
    """
    if not abs(snr_db) <= _LARGEST_SNR:
        raise MomeError(f"a signal-to-noise ratio of {snr_db} dB is not possible: give one from -100 to 100")
    for name, wave in (("speech", speech), ("noise", noise)):
        if not _power(wave):
            raise MomeError(f"the {name} is silent: no signal-to-noise ratio can be set")
    stretch = _stretch(noise, len(speech), rng)
    gain = np.sqrt(_power(speech) / _power(stretch)) * 10 ** (-snr_db / 20)
    return (speech.astype(np.float64) + gain * stretch).astype(np.float32)


def _power(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64))) if wave.size else 0.0


def _stretch(noise: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) float64 from a random place of the noise, audible if it can be found in a few draws."""
    last = len(noise) - samples
    starts = rng.integers(last + 1 if last >= 0 else len(noise), size=_DRAWS)
    loudest = int(np.argmax(np.abs(noise)))
    best = np.empty(0)
    for start in [*starts, min(loudest, last) if last >= 0 else loudest]:
        stretch = np.take(noise, np.arange(start, start + samples), mode="wrap").astype(np.float64)
        if _power(stretch) >= _AUDIBLE * _power(noise):
            return stretch
        if _power(stretch) > _power(best):
            best = stretch
    return best
