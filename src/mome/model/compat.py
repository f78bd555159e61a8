"""Arithmetic of the published systems' code where it differs from ours; docs/compat.md says what and by how much."""

from __future__ import annotations

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

SAMPLES_PER_FRAME = 640  # of sound at 16 kHz beside a video frame at 25 a second
LEAST_TOKENS = 25  # of Whisper that the published systems keep, however short the clip


def official_audio_tokens(samples: int) -> int:
    """Whisper tokens that Llama-AVSR and its successors keep of a clip.

    They divide by the sampling rate and multiply by the token rate in bfloat16, of which eight bits are significant,
    so that up to nine tokens of a long clip are lost, or padding is read after them.

    Args:
        samples: length of the clip, or of the longest in the batch, at 16 kHz.
    """
    length = torch.tensor(samples).to(torch.bfloat16)
    return max(int(length / 16_000 * 50), LEAST_TOKENS)


def official_sound(waveform: np.ndarray, frames: int) -> np.ndarray:
    """The sound of an audio-visual clip, cut or padded with zeros to the length of its video.

    The published systems' data loader does so before the waveform is normalised.

    Args:
        waveform: ``(samples,)``, 16 kHz mono.
        frames: of the video.
    """
    samples = frames * SAMPLES_PER_FRAME
    return np.pad(waveform[:samples], (0, max(samples - len(waveform), 0)))


def official_log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """Whisper's log-mel frames of a clip where the published systems run in bfloat16.

    Their loop rounds what the data loader gives to bfloat16, and so the waveform that is normalised already.

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
