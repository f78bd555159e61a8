"""How fast somebody speaks, from the audio features.

Shape notation: B clips, T frames, D encoder width, P width of the predictor.

Source: "MMS-LLaMA: Efficient LLM-based Audio-Visual Speech Recognition with Minimal Multimodal Speech Tokens"
(ACL Findings 2025).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderStableLayerNorm

from mome.features import length_mask

STEP = 4  # only every fourth frame is read


class SpeechRatePredictor(nn.Module):
    """The speech rate of each clip relative to normally fast speech, read from a learned token before the frames.

    The rates in the published manifests of LRS3 are words per second divided by 2.71, about the mean of that corpus.
    The published recogniser trains the predictor beforehand and freezes it. There is no dropout here, so that a clip
    has the same rate each time, in a recogniser's training too.

    State-dict keys: ``token``, ``linear.*``, ``encoder.*`` (Transformers' wav2vec 2.0 encoder with pre-norm layers)
    and ``head.*``.
    """

    def __init__(self, in_features: int, width: int = 256, inner: int = 1024, heads: int = 4, layers: int = 2) -> None:
        """Read features of width ``in_features`` through ``layers`` Transformer layers of ``width``.

        Args:
            in_features: width D of the audio features.
            width: P, a multiple of ``heads`` and of 16.
            inner: feed-forward width of the layers.
            heads: attention heads.
            layers: Transformer layers.
        """
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.linear = nn.Linear(in_features, width)
        options: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_conv_pos_embeddings": 128,
            "num_conv_pos_embedding_groups": 16,
            **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0),
            # Only a complete model chooses an implementation by itself; without one the mask is ignored.
            "attn_implementation": "sdpa",
        }
        self.encoder = Wav2Vec2EncoderStableLayerNorm(Wav2Vec2Config(**options))
        self.head = nn.Linear(width, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the token; untrained, the predictor gives 1 for all speech."""
        nn.init.normal_(self.token, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.ones_(self.head.bias)  # and not 0, where the final ReLU has no gradient

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Predict the speech rates.

        Padding is masked, so that a clip's rate does not depend on its batch. The original masks nothing: both agree
        if all clips of a batch have the same length.

        Args:
            frames: ``(B, T, D)`` audio features, 50 a second, right-padded, in the dtype of the weights.
            lengths: ``(B,)`` integer, frames of each clip; ``None``: T for every clip.

        Returns:
            ``(B,)`` in the dtype of the weights, from 0 up; 1 is normally fast.
        """
        sequence = torch.cat([self.token.expand(len(frames), -1, -1), self.linear(frames[:, ::STEP])], dim=1)
        mask = None if lengths is None else length_mask((lengths + STEP - 1) // STEP + 1, sequence.shape[1])
        rates: Tensor = self.head(self.encoder(sequence, attention_mask=mask).last_hidden_state[:, 0])
        return rates.squeeze(-1).relu()
