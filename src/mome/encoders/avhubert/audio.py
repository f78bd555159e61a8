"""AV-HuBERT's audio branch as an audio encoder: log filterbanks to 25 tokens a second."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from mome.encoders.avhubert.filterbank import stacked_frames, stacked_log_filterbank
from mome.encoders.avhubert.model import AVHubertModel
from mome.encoders.base import AudioContext, AudioEncoder
from mome.features import Features
from mome.operations import meta


class AVHubertAudioEncoder(AudioEncoder, reads="filterbank", types=("avhubert",)):
    """An AV-HuBERT that only hears."""

    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode log filterbanks.

        Args:
            input_features: ``(B, audio_feature_size, M)`` float, from
                :func:`~mome.encoders.avhubert.stacked_log_filterbank`, 25 a second.
            input_features_mask: ``(B, M)`` bool, true on real frames; without it all are.

        Returns:
            Features with one token per frame.
        """
        features: Features = self.encoder(None, input_features_mask, input_features.transpose(1, 2))
        return features

    def example(self, tokens: int) -> Tensor:
        """See :meth:`AudioEncoder.example`."""
        return meta(1, self.encoder.config.audio_feature_size, tokens)

    @staticmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """One for every four windows of the filterbank."""
        return stacked_frames(samples)

    @staticmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """As many as there are video frames."""
        return AVHubertModel.frames_per_second

    @staticmethod
    def features(waveform: np.ndarray, extractor: None, context: AudioContext) -> tuple[np.ndarray, int]:
        """Stacked log filterbanks."""
        rows = stacked_log_filterbank(waveform)
        return rows.T, len(rows)
