"""The decorrelation loss against attention sinks among the tokens before the transcript.

Shape notation: B clips, L positions, H width of the language model.

Source: the decorrelation loss against attention sinks of Llama-AVSR (its code of 2026, option "sink loss").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def decorrelation_loss(hidden_states: Sequence[Tensor], prefix: Tensor) -> Tensor:
    """Mean squared cosine between the first position of each clip and the others before its transcript.

    Language models attend strongly to the first position, the attention sink. Audio and video tokens whose hidden
    states align with the first one become sinks too; the loss penalises that alignment.

    Args:
        hidden_states: ``(B, L, H)`` for each decoder layer to include. The original includes all but the last, whose
            output is normalised.
        prefix: ``(B, L)`` bool, true on the positions before the transcript, padding excluded. A clip's first true
            position is its first token.

    Returns:
        A float32 scalar from 0 to 1, the mean over clips, positions and layers; 0 without positions to compare.
    """
    clips = torch.arange(len(prefix), device=prefix.device)
    first = prefix.int().argmax(dim=1)
    others = prefix.clone()
    others[clips, first] = False
    total = torch.zeros((), device=prefix.device)
    for states in hidden_states:
        sink = states[clips, first].unsqueeze(1)
        cosines = F.cosine_similarity(states.float(), sink.float(), dim=-1)
        total = total + (cosines.square() * others).sum()
    return total / (others.sum() * len(hidden_states)).clamp(min=1)
