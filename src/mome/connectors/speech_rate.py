"""How fast somebody speaks, from the audio encoder's tokens.

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

STEP = 4  # frames from one that is looked at to the next


class SpeechRatePredictor(nn.Module):
    """The speech rate of each clip relative to normally fast speech, read from a learned token before the frames.

    The rates in the published manifests of LRS3 fit words per second divided by 2.71, about the mean of that corpus.
    The published recogniser uses the predictor frozen, trained beforehand. Nothing here adds dropout, so that in a
    recogniser's training a clip has one rate.

    State-dict keys: ``token``, ``linear.*``, ``encoder.*`` (Transformers' wav2vec 2.0 encoder with pre-norm layers)
    and ``head.*``.
    """

    def __init__(self, in_features: int, width: int = 256, inner: int = 1024, heads: int = 4, layers: int = 2) -> None:
        """Read tokens of ``in_features`` through ``layers`` Transformer layers of ``width``.

        Args:
            in_features: width D of the audio tokens.
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
            # Outside a whole model nothing else chooses one, and the mask would be ignored.
            "attn_implementation": "sdpa",
        }
        self.encoder = Wav2Vec2EncoderStableLayerNorm(Wav2Vec2Config(**options))
        self.head = nn.Linear(width, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the token; untrained, all speech is normally fast."""
        nn.init.normal_(self.token, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.ones_(self.head.bias)  # also, the final ReLU has no gradient at 0 and below

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Predict the speech rates.

        Padding is masked, so that a clip's rate does not depend on its batch. The original masks nothing: it is
        matched where all clips of a batch have the same length.

        Args:
            tokens: ``(B, T, D)`` audio tokens, 50 a second, right-padded, in the dtype of the weights.
            lengths: ``(B,)`` integer, frames of each clip; without them all are as long as the batch.

        Returns:
            ``(B,)`` in the dtype of the weights, from 0 up; 1 is normally fast.
        """
        frames = self.linear(tokens[:, ::STEP])
        seen = torch.cat([self.token.expand(len(tokens), -1, -1), frames], dim=1)
        mask = None if lengths is None else length_mask((lengths + STEP - 1) // STEP + 1, seen.shape[1])
        rates: Tensor = self.head(self.encoder(seen, attention_mask=mask).last_hidden_state[:, 0])
        return rates.squeeze(-1).relu()
