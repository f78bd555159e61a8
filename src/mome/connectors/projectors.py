"""From encoder width to the language model's width: one projector per rate.

Shape notation: B clips, T frames, D encoder width, H width of the language model.

Source: Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs") and MoME (NeurIPS 2025): two
linear layers with a ReLU between them, one pair of layers for each rate of each modality. The names in the
state dict are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mome.connectors.base import ConnectorConfig, SeparateConnector, Surroundings, parameters
from mome.connectors.pooling import (
    CompressionMethod,
    check_known,
    check_method,
    check_rates,
    compress,
    compressed_width,
)


@dataclass(frozen=True)
class ProjectorsConfig(ConnectorConfig, kind="projectors"):
    """One projector for every rate of each modality (Llama-AVSR, Llama-MTSK, MoME)."""

    stacks = True
    separate = True

    def build(self, around: Surroundings) -> RateProjectorsConnector:
        """Make the projectors."""
        return RateProjectorsConnector.of(
            around,
            lambda rates, width: RateProjectors(
                rates, width, around.hidden, around.out_features, around.compression, around.norm
            ),
        )


class Projector(nn.Sequential):
    """Linear - ReLU - Linear [- LayerNorm], with the state-dict keys ``0.*``, ``2.*`` [and ``3.*``].

    The LayerNorm is optional because the published systems differ: the average-pooling Llama-MTSK
    checkpoints have one, the stacking Llama-AVSR ones and Omni-AVSR have none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 2048,
        norm: bool = False,
    ) -> None:
        """Map (..., in_features) to (..., out_features) through ``hidden`` features."""
        layers: list[nn.Module] = [
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_features),
        ]
        if norm:
            layers.append(nn.LayerNorm(out_features))
        super().__init__(*layers)


class RateProjectors(nn.ModuleList):
    """Compression and projection of one modality, with a projector of its own for every rate.

    State-dict keys: ``{i}.{0,2[,3]}.*`` with i the position of the rate in ``rates``.

    Attributes:
        rates: the rates, in the order of the projectors.
        method: ``"average"``, ``"stack"`` or ``"segments"``.
    """

    def __init__(
        self,
        rates: Sequence[int],
        in_features: int,
        hidden: int = 2048,
        out_features: int = 2048,
        method: CompressionMethod = "average",
        norm: bool = False,
    ) -> None:
        """Make one projector per rate, from the compressed width through ``hidden`` to H features.

        Raises:
            MomeError: no rate, a rate twice or below 1, or an unknown method.
        """
        check_method(method)
        check_rates(rates)
        super().__init__(
            Projector(compressed_width(in_features, rate, method), out_features, hidden, norm) for rate in rates
        )
        self.rates = tuple(rates)
        self.method: CompressionMethod = method

    def projector(self, rate: int) -> Projector:
        """The projector of ``rate``; raises :class:`MomeError` if there is none."""
        projector = self[self.rates.index(check_known(rate, self.rates))]
        assert isinstance(projector, Projector)
        return projector

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Compress by the rate, then project; a :data:`~mome.connectors.base.Compressor`.

        Returns:
            Tokens (B, T // rate, H) and lengths (B,), floor(lengths / rate).

        Raises:
            MomeError: the rate has no projector.
        """
        projector = self.projector(rate)
        pooled, pooled_lengths = compress(frames, lengths, rate, self.method)
        return projector(pooled), pooled_lengths


class RateProjectorsConnector(SeparateConnector):
    """A :class:`RateProjectors` for each modality."""

    def active_parameters(self) -> int:
        """Number of parameters of the largest projector of each modality."""
        sides = [side for side in (self.audio, self.video) if isinstance(side, RateProjectors)]
        return sum(max(map(parameters, side)) for side in sides)
