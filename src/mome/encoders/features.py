"""What every encoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Encoder tokens of a padded batch.

    Attributes:
        tokens: ``(B, T, D)`` float; positions at and beyond a clip's length are zero.
        lengths: ``(B,)`` int64, valid tokens per clip.
    """

    tokens: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """``(B, T)`` bool, true on valid tokens."""
        return valid_mask(self.lengths, self.tokens.shape[1])


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """``(B, size)`` bool mask, true where the position is below the clip's length ``(B,)``."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
