"""Arithmetic of the published systems' code where it differs from this package's (docs/compat.md has the figures)."""

from __future__ import annotations

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from mome.clip import SAMPLES_PER_FRAME

LEAST_FRAMES = 25
"""Whisper frames that the published systems keep of any clip, however short."""


def official_audio_frames(samples: int) -> int:
    """Whisper frames, 50 a second, that Llama-AVSR and its successors keep of a clip.

    Their code computes the number in bfloat16, which has eight significant bits. So up to nine frames of a long clip
    are lost, or padding is read after it.

    Args:
        samples: length of the clip, or of the longest in the batch, at 16 kHz.
    """
    length = torch.tensor(samples).to(torch.bfloat16)
    return max(int(length / 16_000 * 50), LEAST_FRAMES)


def official_sound(waveform: np.ndarray, frames: int) -> np.ndarray:
    """Cut the sound of an audio-visual clip, or pad it with zeros, to the length of its video.

    The published systems' data loader does so before it normalises the waveform.

    Args:
        waveform: ``(samples,)``, 16 kHz mono.
        frames: number of video frames.
    """
    samples = frames * SAMPLES_PER_FRAME
    return np.pad(waveform[:samples], (0, max(samples - len(waveform), 0)))


def official_log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """Whisper's log-mel frames of a clip as the published systems compute them in bfloat16.

    Their training loop rounds the data loader's output, the normalised waveform, to bfloat16.

    Args:
        waveform: ``(samples,)`` float32, 16 kHz mono, at most the extractor's window.
        extractor: Whisper's feature extractor.

    Returns:
        ``(mel_bins, frames)`` float32, padded to the window.
    """
    normal = torch.nn.functional.layer_norm(torch.tensor(waveform), waveform.shape, eps=1e-8)
    rounded = normal.to(torch.bfloat16).float().numpy()
    features: np.ndarray = extractor(
        rounded, sampling_rate=extractor.sampling_rate, padding="max_length", return_tensors="np"
    ).input_features[0]
    return features
