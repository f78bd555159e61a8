"""The audio encoders there are, told apart by the type in their configuration: what they read and what they give."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.encoders.avhubert import AVHubertAudioEncoder, AVHubertModel, stacked_log_filterbank
from mome.encoders.avhubert.filterbank import stacked_frames
from mome.encoders.logmel import log_mel, z_normalize
from mome.encoders.waveform import WaveformAudioEncoder, waveform_tokens, waveform_tokens_per_second
from mome.encoders.whisper import AudioContext, WhisperAudioEncoder

AudioEncoder = WhisperAudioEncoder | WaveformAudioEncoder | AVHubertAudioEncoder
AudioInput = Literal["log_mel", "waveform", "filterbank"]

AUDIO_INPUTS: dict[str, AudioInput] = {
    "whisper": "log_mel",
    "wavlm": "waveform",
    "hubert": "waveform",
    "avhubert": "filterbank",
}
"""What the audio encoders read, by the type of their configuration."""


def wrap_audio_encoder(encoder: PreTrainedModel, context: AudioContext) -> AudioEncoder:
    """The audio encoder around a pre-trained model; ``context`` is for :class:`WhisperAudioEncoder` alone."""
    kind = AUDIO_INPUTS[encoder.config.model_type]
    if kind == "log_mel":
        return WhisperAudioEncoder(cast(WhisperEncoder, encoder), context)
    if kind == "waveform":
        return WaveformAudioEncoder(cast(Any, encoder))
    return AVHubertAudioEncoder(cast(AVHubertModel, encoder))


def new_audio_encoder(config: Any) -> PreTrainedModel:
    """A model with random weights to wrap."""
    if AUDIO_INPUTS[config.model_type] == "log_mel":
        return WhisperEncoder(config)
    return (
        AVHubertModel(config)
        if config.model_type == "avhubert"
        else AutoModel.from_config(config, trust_remote_code=False)
    )


def audio_features(
    waveform: np.ndarray, kind: AudioInput, extractor: Any, context: AudioContext
) -> tuple[np.ndarray, int]:
    """What an audio encoder reads of one utterance.

    Args:
        waveform: ``(samples,)`` float32, 16 kHz mono.
        kind: of the encoder's input.
        extractor: the encoder's feature extractor of Transformers; a log filterbank needs none.
        context: of log-mel frames, see :func:`~mome.encoders.logmel.log_mel`.

    Returns:
        ``(C, frames)`` float32 and the number of real frames: log-mel bins, one row of samples, or filterbank
        features.

    Raises:
        MomeError: the utterance is longer than Whisper's window.
    """
    if kind == "log_mel":
        return log_mel(waveform, extractor, context)
    if kind == "waveform":
        rate = extractor.sampling_rate
        samples = extractor(z_normalize(waveform), sampling_rate=rate, return_tensors="np").input_values
        return samples.astype(np.float32), samples.shape[1]
    rows = stacked_log_filterbank(waveform)
    return rows.T, len(rows)


def audio_tokens(config: PreTrainedConfig, samples: int) -> int:
    """Tokens that the audio encoder of this configuration makes of so many samples at 16 kHz."""
    kind = AUDIO_INPUTS[config.model_type]
    if kind == "waveform":
        return waveform_tokens(config, samples)
    if kind == "filterbank":
        return stacked_frames(samples)
    return samples * WhisperAudioEncoder.tokens_per_second // 16_000


def audio_tokens_per_second(config: PreTrainedConfig) -> int:
    """Tokens a second of the audio encoder of this configuration."""
    kind = AUDIO_INPUTS[config.model_type]
    if kind == "waveform":
        return waveform_tokens_per_second(config)
    return AVHubertModel.tokens_per_second if kind == "filterbank" else WhisperAudioEncoder.tokens_per_second
