"""AV-HuBERT's audio input: log filterbanks of four successive 10 ms frames side by side."""

from __future__ import annotations

import numpy as np

from mome.clip import SAMPLE_RATE

WINDOW = 400  # 25 ms
HOP = 160  # 10 ms
N_FFT = 512
MEL_BINS = 26
STACK = 4  # 100 filterbank frames a second become 25
PREEMPHASIS = 0.97


def mel_filters() -> np.ndarray:
    """``(26, 257)`` float64 triangular filters from 0 to 8 kHz, corners rounded down to FFT bins."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, MEL_BINS + 2) / 2595) - 1)
    corners = np.floor((N_FFT + 1) * corners_hz / SAMPLE_RATE).astype(int)
    filters = np.zeros((MEL_BINS, N_FFT // 2 + 1))
    for row, (low, peak, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        rising, falling = np.arange(low, peak), np.arange(peak, high)
        filters[row, rising] = (rising - low) / (peak - low)
        filters[row, falling] = (high - falling) / (high - peak)
    return filters


def filterbank_frames(samples: int) -> int:
    """Number of windows, 100 a second, such that the last sample is in one."""
    return 1 + max(0, -((WINDOW - samples) // HOP))


def stacked_frames(samples: int) -> int:
    """Number of rows of :func:`stacked_log_filterbank` for ``samples`` samples."""
    return -(-filterbank_frames(samples) // STACK)


def log_filterbank(waveform: np.ndarray) -> np.ndarray:
    """``(samples,)`` waveform at 16 kHz → ``(frames, 26)`` float64 log energies, 100 frames a second."""
    signal = np.asarray(waveform, dtype=np.float64)
    signal = np.append(signal[:1], signal[1:] - PREEMPHASIS * signal[:-1])
    frames = filterbank_frames(len(signal))
    signal = np.pad(signal, (0, (frames - 1) * HOP + WINDOW - len(signal)))
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows, N_FFT)) ** 2 / N_FFT
    energy = power @ mel_filters().T
    return np.log(np.where(energy == 0, np.finfo(float).eps, energy))


def stacked_log_filterbank(waveform: np.ndarray) -> np.ndarray:
    """Compute the input of AV-HuBERT's audio branch.

    Args:
        waveform: ``(samples,)`` float, 16 kHz mono. Its scale does not matter: each stacked frame is
            normalised to mean 0 and variance 1 (layer norm, eps 1e-5).

    Returns:
        ``(⌈frames / 4⌉, 104)`` float32, 25 rows a second.
    """
    bank = log_filterbank(waveform).astype(np.float32)
    bank = np.pad(bank, ((0, -len(bank) % STACK), (0, 0))).reshape(-1, STACK * MEL_BINS)
    centred = bank - bank.mean(1, keepdims=True)
    normed: np.ndarray = centred / np.sqrt(bank.var(1, keepdims=True) + 1e-5)
    return normed
