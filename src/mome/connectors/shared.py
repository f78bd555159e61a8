"""One projector for all rates of a modality, followed by average pooling.

Shape notation: B clips, T frames, D encoder width, H width of the language model.

Source: M3 ("Matryoshka Multimodal Models", arXiv 2405.17430), whose nested token sets are averages of the
projected image tokens, here along time instead of over the image. With a projector that was trained at one rate, it
is average pooling at inference only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mome.connectors.base import ConnectorConfig, SeparateConnector, Surroundings
from mome.connectors.pooling import check_known, check_rates, compress
from mome.connectors.projectors import Projector


@dataclass(frozen=True)
class SharedConfig(ConnectorConfig, kind="shared"):
    """One projector for all rates of a modality, pooled afterwards (M3, "Matryoshka Multimodal Models")."""

    def build(self, around: Surroundings) -> SeparateConnector:
        """Make the projectors."""
        return SeparateConnector.of(
            around,
            lambda rates, width: SharedProjector(rates, width, around.hidden, around.out_features, around.norm),
        )


class SharedProjector(nn.Module):
    """Projection of one modality, then average pooling; only the pooling depends on the rate.

    State-dict keys: ``projector.{0,2[,3]}.*``.

    Attributes:
        rates: the rates that it takes.
        projector: the projector of all rates.
    """

    def __init__(
        self,
        rates: Sequence[int],
        in_features: int,
        hidden: int = 2048,
        out_features: int = 2048,
        norm: bool = False,
    ) -> None:
        """Make the projector from width ``in_features`` through ``hidden`` to ``out_features``.

        Raises:
            MomeError: no rate, a rate twice or below 1.
        """
        super().__init__()
        self.rates = check_rates(rates)
        self.projector = Projector(in_features, out_features, hidden, norm)

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Project all frames, then average each run of ``rate``; a :data:`~mome.connectors.base.Compressor`.

        Returns:
            Tokens (B, T // rate, H) and lengths (B,), floor(lengths / rate).

        Raises:
            MomeError: the rate is not one of ``self.rates``.
        """
        return compress(self.projector(frames), lengths, check_known(rate, self.rates))
