"""Whisper's encoder as an audio encoder: log-mel frames to 50 encoder frames a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.clip import SAMPLE_RATE
from mome.encoders.base import AudioContext, AudioEncoder, Report, z_normalize
from mome.errors import MomeError
from mome.features import Features, length_mask
from mome.operations import meta

LOG_MEL_RATE = 100  # log-mel frames a second
FRAMES_PER_SECOND = 50  # encoder frames a second
SILENCE = 1  # second after a clip, with the context "clip+silence"; results/benchmarks/encoders.json says why


class WhisperAudioEncoder(AudioEncoder, reads="log_mel", types=("whisper",)):
    """A Transformers ``WhisperEncoder`` whose output is trimmed to the real length of each clip.

    "Robust Speech Recognition via Large-Scale Weak Supervision" (Radford et al., 2022).

    Args:
        encoder: the pre-trained encoder.
        context: how much of the window (30 s in the published models) is computed before it is trimmed. ``"window"``:
            all of it, as Whisper was trained. ``"clip"``: the clip's own frames, several times cheaper and right for
            encoders that were trained that way. ``"clip+silence"``: these and a second of silence, as far as the
            window goes; nearly as cheap, and nearer to what Whisper gives in its window, above all at the clip's end.
    """

    extractor = WhisperFeatureExtractor

    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode log-mel frames.

        Args:
            input_features: ``(B, mel_bins, M)`` float log-mel frames, 100 a second.
            input_features_mask: ``(B, M)`` bool, true on real frames; without it all are.

        Returns:
            Features with ``⌊log-mel frames / 2⌋`` frames per clip.
        """
        mask = input_features_mask
        if mask is None:
            mask = torch.ones(len(input_features), input_features.shape[2], dtype=torch.bool)
        real = mask.sum(1)
        lengths = real // 2
        if self.context == "window":
            frames = self.encoder(input_features).last_hidden_state[:, : int(lengths.max())]
        else:
            heard = (real + _silence(self.context) * LOG_MEL_RATE).clamp(max=input_features.shape[2])
            frames = self._encode_clips(input_features, heard)[:, : max(int(lengths.max()), 1)]
        return Features.masked(frames, lengths)

    def _encode_clips(self, log_mel: Tensor, heard: Tensor) -> Tensor:
        """Encode the first ``heard (B,)`` log-mel frames of each clip, as if the clip were alone."""
        encoder, lengths = cast(WhisperEncoder, self.encoder), heard // 2
        size = max(int(lengths.max()), 1)
        # Zeros beyond each clip, as a clip by itself is padded; the second convolution's valid outputs then read no
        # frame of the padding.
        mask = length_mask(heard, log_mel.shape[2]).to(log_mel)
        hidden = F.gelu(encoder.conv1(log_mel * mask[:, None]))
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)[:, :size]
        hidden = hidden + encoder.embed_positions.weight[:size]
        valid = length_mask(lengths, size).to(hidden.device)
        attention_mask = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        attention_mask = attention_mask.masked_fill(~valid, torch.finfo(hidden.dtype).min)[:, None, None]
        attention_mask = attention_mask.expand(-1, 1, size, -1)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        normed: Tensor = encoder.layer_norm(hidden)
        return normed

    def example(self, frames: int) -> Tensor:
        """See :meth:`AudioEncoder.example`; with ``context="window"`` always a full window."""
        config = self.encoder.config
        window: int = config.max_source_positions
        heard = min(frames + _silence(self.context) * FRAMES_PER_SECOND, window)
        return meta(1, config.num_mel_bins, 2 * (window if self.context == "window" else heard))

    @staticmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """50 a second."""
        return samples * FRAMES_PER_SECOND // SAMPLE_RATE

    @staticmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """50."""
        return FRAMES_PER_SECOND

    @staticmethod
    def prepare(
        waveform: np.ndarray, extractor: WhisperFeatureExtractor, context: AudioContext
    ) -> tuple[np.ndarray, int]:
        """Log-mel frames; see :func:`log_mel`."""
        return log_mel(waveform, extractor, context)

    @staticmethod
    def new(config: PreTrainedConfig) -> PreTrainedModel:
        """A Whisper encoder without decoder, with random weights."""
        return WhisperEncoder(cast(WhisperConfig, config))

    @staticmethod
    def load(config: PreTrainedConfig, load: Callable[[Any], tuple[Any, Report]]) -> tuple[PreTrainedModel, Report]:
        """Load the encoder alone, from its own files or from those of a complete Whisper."""
        if config.architectures == ["WhisperEncoder"]:
            return load(WhisperEncoder)
        model, report = load(WhisperModel)
        own = {name: [key for key in keys if "encoder." in str(key)] for name, keys in report.items() if "keys" in name}
        return model.get_encoder(), own

    @staticmethod
    def window(extractor: WhisperFeatureExtractor) -> float:
        """30 s in the published models."""
        return float(extractor.n_samples / extractor.sampling_rate)

    @staticmethod
    def extractor_settings(config: PreTrainedConfig) -> dict[str, Any]:
        """Mel bins and window of the encoder, and Whisper's log-mel frames: 25 ms long, one every 10 ms."""
        hop = SAMPLE_RATE // LOG_MEL_RATE
        return {
            "feature_size": config.num_mel_bins,
            "hop_length": hop,
            "n_fft": 400,
            "dither": 0.0,
            "n_samples": config.max_source_positions * 2 * hop,
        }


def _silence(context: AudioContext) -> int:
    """Seconds of silence after a clip that are encoded with it."""
    return SILENCE if context == "clip+silence" else 0


def log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor, context: AudioContext) -> tuple[np.ndarray, int]:
    """Compute the log-mel frames of one clip, whose waveform is z-normalised first, as Llama-AVSR's family does.

    Args:
        waveform: ``(samples,)`` float32, 16 kHz mono.
        extractor: Whisper's feature extractor; its ``n_samples`` is the encoder's window. One whose ``do_normalize`` is
            false, and not merely unset, leaves the waveform as it is (MMS-LLaMA).
        context: ``"window"`` pads to the window, ``"clip"`` keeps the clip's own length, ``"clip+silence"`` adds a
            second if the window has room for it.

    Returns:
        ``(mel_bins, frames)`` float32, 100 frames a second, and the number of frames that are real.

    Raises:
        MomeError: the clip is longer than the window.
    """
    if len(waveform) > extractor.n_samples:
        raise MomeError(
            f"{len(waveform) / extractor.sampling_rate:.1f} s of audio exceed the audio encoder's window of "
            f"{extractor.n_samples / extractor.sampling_rate:g} s: cut the recording into shorter clips"
        )
    scaled = waveform if getattr(extractor, "do_normalize", None) is False else z_normalize(waveform)
    wanted = min(len(waveform) + _silence(context) * extractor.sampling_rate, extractor.n_samples)
    # The extractor fails on less than half an FFT window; such a clip has no real frame anyway.
    features = extractor(
        np.pad(scaled, (0, max(extractor.n_fft // 2 + 1, wanted) - len(waveform))),
        sampling_rate=extractor.sampling_rate,
        padding="max_length" if context == "window" else "do_not_pad",
        return_tensors="np",
    ).input_features[0]
    return features, min(len(waveform) // extractor.hop_length, features.shape[1])
