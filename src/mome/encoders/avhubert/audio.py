"""AV-HuBERT's audio branch as an audio encoder: log filterbanks to 25 frames a second."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from mome.clip import FRAME_RATE
from mome.encoders.avhubert.filterbank import stacked_frames, stacked_log_filterbank
from mome.encoders.base import AudioContext, AudioEncoder
from mome.features import Features
from mome.operations import meta


class AVHubertAudioEncoder(AudioEncoder, reads="filterbank", types=("avhubert",)):
    """An AV-HuBERT that reads audio only."""

    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode log filterbanks.

        Args:
            input_features: ``(B, audio_feature_size, M)`` float, from
                :func:`~mome.encoders.avhubert.stacked_log_filterbank`, 25 a second.
            input_features_mask: ``(B, M)`` bool, true on real frames; without it all are.

        Returns:
            Features with one frame per input frame.
        """
        features: Features = self.encoder(None, input_features_mask, input_features.transpose(1, 2))
        return features

    def example(self, frames: int) -> Tensor:
        """See :meth:`AudioEncoder.example`."""
        return meta(1, self.encoder.config.audio_feature_size, frames)

    @staticmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """One for every four windows of the filterbank, the last four filled up."""
        return stacked_frames(samples)

    @staticmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """25, as of the video."""
        return FRAME_RATE

    @staticmethod
    def prepare(waveform: np.ndarray, extractor: None, context: AudioContext) -> tuple[np.ndarray, int]:
        """Stacked log filterbanks ``(104, M)``."""
        rows = stacked_log_filterbank(waveform)
        return rows.T, len(rows)
