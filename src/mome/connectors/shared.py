"""One projector for all rates of a modality, followed by average pooling or, for stacks, after the compression.

Shape notation: B clips, T frames, D encoder width, H width of the language model.

Source: M3 ("Matryoshka Multimodal Models", arXiv 2405.17430), whose nested token sets are averages of the
projected image tokens, here along time instead of over the image. With a projector that was trained at one rate, it
is average pooling at inference only. Segments of one number at all rates, compressed first, are ours: the
projector sees more of its input than an average, and learns from all rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mome.connectors.base import ConnectorConfig, SeparateConnector, Surroundings
from mome.connectors.pooling import CompressionMethod, check_known, check_rates, compress, compressed_width
from mome.connectors.projectors import Projector
from mome.errors import MomeError


@dataclass(frozen=True)
class SharedConfig(ConnectorConfig, kind="shared"):
    """One projector for all rates of a modality, pooled afterwards (M3, "Matryoshka Multimodal Models")."""

    stacks = True
    separate = True

    def build(self, around: Surroundings) -> SeparateConnector:
        """Make the projectors."""
        return SeparateConnector.of(
            around,
            lambda rates, width: SharedProjector(
                rates, width, around.hidden, around.out_features, around.norm, around.compression
            ),
        )


class SharedProjector(nn.Module):
    """Projection of one modality, then average pooling, or compression first; only that depends on the rate.

    State-dict keys: ``projector.{0,2[,3]}.*``.

    Attributes:
        rates: the rates that it takes.
        projector: the projector of all rates.
        method: ``"average"`` pools what is projected; ``"stack"`` and ``"segments"`` compress first.
    """

    def __init__(
        self,
        rates: Sequence[int],
        in_features: int,
        hidden: int = 2048,
        out_features: int = 2048,
        norm: bool = False,
        method: CompressionMethod = "average",
    ) -> None:
        """Make the projector from the compressed width of ``in_features`` through ``hidden`` to ``out_features``.

        Raises:
            MomeError: no rate, a rate twice or below 1, or rates whose stacks differ in width.
        """
        super().__init__()
        self.rates, self.method = check_rates(rates), method
        widths = {compressed_width(in_features, rate, method) for rate in rates}
        if len(widths) > 1:
            raise MomeError(
                f"compression={method} at the rates {', '.join(map(str, rates))} gives tokens of different widths, "
                "which one projector cannot read: choose the connector projectors, or rates that are alike"
            )
        self.projector = Projector(widths.pop(), out_features, hidden, norm)

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Project and compress by ``rate``; a :data:`~mome.connectors.base.Compressor`.

        Returns:
            Tokens (B, T // rate, H) and lengths (B,), floor(lengths / rate).

        Raises:
            MomeError: the rate is not one of ``self.rates``.
        """
        rate = check_known(rate, self.rates)
        if self.method == "average":
            return compress(self.projector(frames), lengths, rate)
        tokens, lengths = compress(frames, lengths, rate, self.method)
        return self.projector(tokens), lengths
