"""One projector for all rates of a modality, with the pooling behind it.

Shape notation: B clips, T frames, D encoder width, H width of the language model.

Source: M3 ("Matryoshka Multimodal Models", arXiv 2405.17430), whose nested token sets are averages of the
projected tokens, here along time instead of over a grid. With a projector trained at one rate the same module is
average pooling at inference only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mome.connectors.base import ConnectorConfig, SeparateConnector, Surroundings
from mome.connectors.pooling import average_pool, check_known, check_rates, pooled_length
from mome.connectors.projectors import Projector


@dataclass(frozen=True)
class SharedConfig(ConnectorConfig, kind="shared"):
    """One projector for all rates of a modality, pooled afterwards (M3, "Matryoshka Multimodal Models")."""

    def build(self, around: Surroundings) -> SeparateConnector:
        """Make the projectors."""
        return SeparateConnector.of(
            around,
            lambda rates, features: SharedProjector(rates, features, around.hidden, around.out_features, around.norm),
        )


class SharedProjector(nn.Module):
    """Projection of one modality, then average pooling: nothing but the pooling depends on the rate.

    State-dict keys: ``projector.{0,2[,3]}.*``.

    Attributes:
        rates: the rates that it is used with.
        projector: the one projector.
    """

    def __init__(
        self,
        rates: Sequence[int],
        in_features: int,
        hidden: int = 2048,
        out_features: int = 2048,
        norm: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the projector from width ``in_features`` through ``hidden`` to ``out_features``.

        Raises:
            MomeError: no rate, or one below 1.
        """
        super().__init__()
        self.rates = check_rates(rates)
        self.projector = Projector(in_features, out_features, hidden, norm, device=device, dtype=dtype)

    def forward(self, tokens: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Project all frames, then average each run of ``rate`` of them.

        Args:
            tokens: (B, T, D), floating, right-padded, in the dtype of the projector.
            lengths: (B,) integer, valid frames of each clip.
            rate: one of ``self.rates``.

        Returns:
            Tokens (B, T // rate, H) and lengths (B,), floor(lengths / rate); no valid token has seen padding.

        Raises:
            MomeError: the rate is not one of ``self.rates``.
        """
        check_known(rate, self.rates)
        return average_pool(self.projector(tokens), rate), pooled_length(lengths, rate)
