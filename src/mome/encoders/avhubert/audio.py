"""AV-HuBERT's audio branch as an audio encoder: log filterbanks to 25 tokens a second."""

from __future__ import annotations

from torch import Tensor, nn

from mome.encoders.avhubert.model import AVHubertModel
from mome.features import Features


class AVHubertAudioEncoder(nn.Module):
    """An AV-HuBERT that only hears.

    Args:
        encoder: the pre-trained model.
    """

    def __init__(self, encoder: AVHubertModel):
        super().__init__()
        self.encoder = encoder

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens."""
        return self.encoder.hidden_size

    @property
    def tokens_per_second(self) -> int:
        """As many as there are video frames."""
        return self.encoder.tokens_per_second

    def forward(self, input_features: Tensor, input_features_mask: Tensor) -> Features:
        """Encode log filterbanks.

        Args:
            input_features: ``(B, audio_feature_size, M)`` float, from
                :func:`~mome.encoders.avhubert.stacked_log_filterbank`, 25 a second.
            input_features_mask: ``(B, M)`` bool, true on real frames.

        Returns:
            Features with one token per frame.
        """
        return self.encoder(None, input_features_mask, input_features.transpose(1, 2))
