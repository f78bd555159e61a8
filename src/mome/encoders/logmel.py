"""Waveforms to Whisper's log-mel input frames."""

from __future__ import annotations

import numpy as np
from transformers import WhisperFeatureExtractor

from mome.encoders.whisper import AudioContext
from mome.errors import MomeError

LOG_MEL_RATE = 100  # frames a second


def z_normalize(waveform: np.ndarray) -> np.ndarray:
    """``(samples,)`` float32 → the same with mean 0 and variance 1 over the utterance (eps 1e-8)."""
    centred = waveform - waveform.mean()
    return (centred / np.sqrt(centred.var() + 1e-8)).astype(np.float32)


def log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor, context: AudioContext) -> tuple[np.ndarray, int]:
    """Log-mel frames of one utterance, z-normalised first as the published systems do.

    Args:
        waveform: ``(samples,)`` float32, 16 kHz mono.
        extractor: Whisper's feature extractor; its ``n_samples`` is the encoder's window.
        context: ``"window"`` pads to the window, ``"clip"`` keeps the utterance's own length.

    Returns:
        ``(mel_bins, frames)`` float32, 100 frames a second, and the number of frames that are real.

    Raises:
        MomeError: the utterance is longer than the window.
    """
    if len(waveform) > extractor.n_samples:
        raise MomeError(
            f"{len(waveform) / extractor.sampling_rate:.1f} s of audio exceed the audio encoder's window of "
            f"{extractor.n_samples / extractor.sampling_rate:g} s: cut the recording into shorter clips"
        )
    # Less than half a window is no frame, but the extractor would fail.
    padded = np.pad(waveform, (0, max(extractor.n_fft // 2 + 1 - len(waveform), 0)))
    features = extractor(
        z_normalize(padded),
        sampling_rate=extractor.sampling_rate,
        padding="max_length" if context == "window" else "do_not_pad",
        return_tensors="np",
    ).input_features[0]
    return features, min(len(waveform) // extractor.hop_length, features.shape[1])
