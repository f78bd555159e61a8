"""Whisper's encoder as the audio encoder: log-mel frames to 50 tokens a second."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.features import Features, length_mask

AudioContext = Literal["window", "clip"]


class WhisperAudioEncoder(nn.Module):
    """A Transformers ``WhisperEncoder`` whose output is trimmed to the real length of each clip.

    Args:
        encoder: the pre-trained encoder.
        context: ``"window"`` runs the full window (30 s in the published models) as Whisper was trained,
            and trims afterwards. ``"clip"`` computes the needed frames only, with padding masked: several
            times cheaper, and right for encoders that were trained that way.
    """

    tokens_per_second = 50

    def __init__(self, encoder: WhisperEncoder, context: AudioContext = "window"):
        super().__init__()
        self.encoder = encoder
        self.context = context

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens."""
        return self.encoder.config.d_model

    def forward(self, input_features: Tensor, input_features_mask: Tensor) -> Features:
        """Encode log-mel frames.

        Args:
            input_features: ``(B, mel_bins, M)`` float log-mel frames, 100 a second.
            input_features_mask: ``(B, M)`` bool, true on real frames.

        Returns:
            Features with ``⌊frames / 2⌋`` tokens per clip.
        """
        lengths = input_features_mask.sum(1) // 2
        if self.context == "window":
            tokens = self.encoder(input_features).last_hidden_state[:, : int(lengths.max())]
        else:
            tokens = self._encode_needed_frames(input_features, input_features_mask, lengths)
        return Features(tokens * length_mask(lengths, tokens.shape[1])[..., None], lengths)

    def _encode_needed_frames(self, frames: Tensor, frame_mask: Tensor, lengths: Tensor) -> Tensor:
        encoder, size = self.encoder, max(int(lengths.max()), 1)
        frame_mask = frame_mask[:, None].to(frames.dtype)
        # A padded batch must look like each clip's own zero padding; the second convolution's valid outputs
        # see no frame beyond the clip.
        hidden = F.gelu(encoder.conv1(frames * frame_mask))
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)[:, :size]
        hidden = hidden + encoder.embed_positions.weight[:size]
        valid = length_mask(lengths, size)
        attention_mask = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        attention_mask = attention_mask.masked_fill(~valid, torch.finfo(hidden.dtype).min)[:, None, None]
        attention_mask = attention_mask.expand(-1, 1, size, -1)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return encoder.layer_norm(hidden)
