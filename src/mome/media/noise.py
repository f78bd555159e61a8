"""Mixing noise into speech at an exact signal-to-noise ratio, reproducibly for each clip."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mome.clip import LARGEST_SNR, SAMPLE_RATE, Clip
from mome.errors import MomeError
from mome.media.decode import Damage, naming, probe
from mome.media.sound import read_audio

# A stretch of noise counts as silent below this share of the recording's mean power (-20 dB).
_AUDIBLE = 0.01
_DRAWS = 8
# Seconds of white and of speech-shaped noise, and samples of an analysis window of the latter.
_SECONDS, _WINDOW = 10, 512
_VOICES = 16


def load_noise(path: str | Path) -> np.ndarray:
    """Read the sound of a file as (samples,) float32, 16 kHz mono.

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
    """A random generator that depends on the seed and the clip's id only, not on the run or the order of clips."""
    digest = hashlib.blake2b(f"{seed}:{clip_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def snr_db(speech: np.ndarray, noise: np.ndarray) -> float:
    """Ratio of the mean powers of two waveforms in dB; infinite if one of them is silent."""
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(_power(speech)) - np.log10(_power(noise))))


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add a random stretch of ``noise`` to ``speech`` so that the ratio of their mean powers is ``snr_db``.

    Both are (samples,) at the same rate. Noise that is shorter than the speech is repeated; stretches where
    the noise pauses are avoided. Returns (samples,) float32, as long as ``speech`` and not clipped: it may
    leave [-1, 1]. Raises :class:`MomeError` if speech or noise is silent or empty, or the ratio is not from
    -100 to 100 dB.
    """
    if not abs(snr_db) <= LARGEST_SNR:
        raise MomeError(f"a signal-to-noise ratio of {snr_db} dB is not possible: give one from -100 to 100")
    for name, wave in (("speech", speech), ("noise", noise)):
        if not _power(wave):
            raise MomeError(f"the {name} is silent: no signal-to-noise ratio can be set")
    stretch = _stretch(noise, len(speech), rng)
    gain = np.sqrt(_power(speech) / _power(stretch)) * 10 ** (-snr_db / 20)
    mixed: np.ndarray = (speech.astype(np.float64) + gain * stretch).astype(np.float32)
    return mixed


def add_noise(clip: Clip, noise: np.ndarray, snr_db: float, seed: int, name: str | None = None) -> Clip:
    """Mix ``noise`` into the sound of a clip, see :func:`mix`; a clip without sound is returned as it is.

    The stretch of noise depends on the seed and ``name`` alone, by default the clip's file name without its folder.

    Raises:
        MomeError: the clip's sound or the noise is silent, or the ratio is not possible; names the file.
    """
    if clip.audio is None:
        return clip
    if name is None:
        name = clip.path.name if clip.path else ""
    try:
        return replace(clip, audio=mix(clip.audio, noise, snr_db, clip_rng(seed, name)))
    except MomeError as error:
        raise MomeError(f"{clip.path}: {error}") from error


def white_noise(rng: np.random.Generator) -> np.ndarray:
    """Make ten seconds of Gaussian noise, (samples,) float32 at 16 kHz with mean power 1."""
    return rng.standard_normal(_SECONDS * SAMPLE_RATE).astype(np.float32)


def babble(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make the babble of 16 voices: ``speech`` (samples,) shifted in a circle by 16 random times, and summed.

    Returns (samples,) float32, as long as the speech and about as loud.
    """
    places = rng.integers(max(len(speech), 1), size=_VOICES)
    summed: np.ndarray = sum((np.roll(speech, place) for place in places), np.zeros(len(speech)))
    voices: np.ndarray = (summed / np.sqrt(_VOICES)).astype(np.float32)
    return voices


def speech_shaped_noise(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make ten seconds of steady noise with the long-term spectrum of ``speech``, both (samples,) float32 at 16 kHz.

    White noise is filtered with the square root of the speech's mean power spectrum over windows of 32 ms.
    """
    padded = np.pad(speech.astype(np.float64), _WINDOW)
    windows = sliding_window_view(padded, _WINDOW)[:: _WINDOW // 2] * np.hanning(_WINDOW)
    spectrum = np.sqrt(np.mean(np.abs(np.fft.rfft(windows)) ** 2, axis=0))
    white = np.fft.rfft(rng.standard_normal(_SECONDS * SAMPLE_RATE))
    places = np.linspace(0, _WINDOW // 2, len(white))
    shaped = np.fft.irfft(white * np.interp(places, np.arange(len(spectrum)), spectrum))
    return (shaped / max(float(np.abs(shaped).max()), 1e-12)).astype(np.float32)


def _power(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64))) if wave.size else 0.0


def _stretch(noise: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """``samples`` samples float64 from a random place of the noise, of a few draws the first that is audible."""
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
