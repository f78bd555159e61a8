"""Encoder features: the output of every encoder and the input of every connector.

Shape notation: B clips, T frames, D encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Encoder features of one modality, a right-padded batch.

    Attributes:
        frames: ``(B, T, D)`` float; an encoder's output is zero beyond each clip's length.
        lengths: ``(B,)`` int64, valid frames of each clip; 0 for a clip without the modality.
    """

    frames: Tensor
    lengths: Tensor

    @classmethod
    def masked(cls, frames: Tensor, lengths: Tensor) -> Features:
        """Make features of ``frames`` with zeros beyond each clip's length, whatever is there."""
        mask = length_mask(lengths, frames.shape[1]).to(frames.device)
        return cls(frames.masked_fill(~mask.unsqueeze(-1), 0), lengths)

    @property
    def mask(self) -> Tensor:
        """``(B, T)`` bool, true on valid frames."""
        return length_mask(self.lengths, self.frames.shape[1])


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """``(B, size)`` bool, true at the first ``lengths[b]`` positions of row b."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(-1)
