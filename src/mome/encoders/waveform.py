"""WavLM and HuBERT as audio encoders: waveforms to 50 frames a second."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel, PreTrainedConfig, Wav2Vec2FeatureExtractor, WavLMModel

from mome.clip import SAMPLE_RATE
from mome.encoders.base import AudioContext, AudioEncoder, z_normalize
from mome.features import Features, length_mask
from mome.operations import meta


class WaveformAudioEncoder(AudioEncoder, reads="waveform", types=("wavlm", "hubert")):
    """A Transformers ``WavLMModel`` or ``HubertModel``.

    "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing" (Chen et al., 2022);
    "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units" (Hsu et al., 2021).
    """

    extractor = Wav2Vec2FeatureExtractor

    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode waveforms.

        Args:
            input_features: ``(B, 1, M)`` float, normalised waveforms at 16 kHz.
            input_features_mask: ``(B, M)`` bool, true on real samples; without it all are.

        Returns:
            Features with ``⌊(samples - 400) / 320⌋ + 1`` frames per clip in the published models, 0 for a clip
            shorter than a frame's window of 400 samples.
        """
        encoder, size = cast(WavLMModel | HubertModel, self.encoder), input_features.shape[2]
        samples = [size] * len(input_features) if input_features_mask is None else input_features_mask.sum(1).tolist()
        counts = [self.frames(encoder.config, number) for number in samples]
        lengths = torch.tensor(counts, device=None if input_features_mask is None else input_features_mask.device)
        if not any(counts):
            return Features(input_features.new_zeros(len(samples), 0, self.hidden_size), lengths)
        hidden = encoder.feature_projection(self._windows(input_features[:, 0], samples))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # WavLM also returns its norm's output
        if input_features_mask is None:
            return Features(encoder.encoder(hidden).last_hidden_state, lengths)
        mask = length_mask(lengths, hidden.shape[1])
        frames = encoder.encoder(hidden, attention_mask=mask).last_hidden_state
        return Features.masked(frames, lengths)

    def _windows(self, waves: Tensor, samples: list[int]) -> Tensor:
        """``(B, M)`` samples → ``(B, T, C)``, the convolutions' outputs; T is at least 1."""
        convolve: Callable[[Tensor], Tensor] = cast(WavLMModel | HubertModel, self.encoder).feature_extractor
        least = self.example(1).shape[2]
        waves = nn.functional.pad(waves, (0, max(least - waves.shape[1], 0)))
        if self.encoder.config.feat_extract_norm == "layer":
            return convolve(waves).transpose(1, 2)
        # The base models' group norm averages over time, padding included, so each clip is computed by itself.
        rows = [convolve(wave[None, : max(size, least)])[0].T for wave, size in zip(waves, samples, strict=True)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def example(self, frames: int) -> Tensor:
        """The shortest waveform that gives this many frames."""
        samples = frames
        for kernel, stride in self._convolutions(self.encoder.config)[::-1]:
            samples = (samples - 1) * stride + kernel
        return meta(1, 1, samples)

    @staticmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """Number of full windows of the convolutions."""
        count = samples
        for kernel, stride in WaveformAudioEncoder._convolutions(config):
            count = max((count - kernel) // stride + 1, 0)
        return count

    @staticmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """50 with the published strides; a clip of whole seconds has one frame less, as its last window is not full."""
        strides: list[int] = list(config.conv_stride)
        return SAMPLE_RATE // prod(strides)

    @staticmethod
    def prepare(
        waveform: np.ndarray, extractor: Wav2Vec2FeatureExtractor, context: AudioContext
    ) -> tuple[np.ndarray, int]:
        """Normalised samples ``(1, M)``."""
        normal = z_normalize(waveform)
        samples = extractor(normal, sampling_rate=extractor.sampling_rate, return_tensors="np").input_values
        return samples.astype(np.float32), samples.shape[1]

    @staticmethod
    def _convolutions(config: Any) -> list[tuple[int, int]]:
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))
