"""A limit of tokens for each clip of a batch, for Transformers' ``generate``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class TokenLimit(LogitsProcessor):
    """Ends each clip's transcript at its own number of tokens; all its beams and no other clip's."""

    def __init__(self, most: Sequence[int], end: int):
        self.most, self.end = torch.tensor(most), end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Allow the end token alone as a row's last: ids ``(B * beams, S)``, scores ``(B * beams, V)``."""
        last = self.most <= input_ids.shape[1] + 1
        if not last.any():
            return scores
        ended = torch.full_like(scores[:1], -math.inf)
        ended[:, self.end] = 0
        rows = last.repeat_interleave(len(input_ids) // len(self.most)).to(scores.device)
        return torch.where(rows[:, None], ended, scores)
