"""Tokens of one encoder that reads sound and lips together.

Shape notation: B clips, T frames, D encoder width, H width of the language model.

Source: Llama-AVSR ("Large Language Models are Strong Audio-Visual Speech Recognition Learners"), its variant in which
one AV-HuBERT reads both and a single projector follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mome.connectors.base import Connected, Connector, ConnectorConfig, Surroundings, TokenCounts, by_rate
from mome.connectors.pooling import compress, compressed_width
from mome.connectors.projectors import Projector
from mome.errors import MomeError
from mome.features import Features
from mome.rates import Rates


@dataclass(frozen=True)
class JointConfig(ConnectorConfig, kind="joint"):
    """One projector for the features of one AV-HuBERT that reads sound and lips (Llama-AVSR)."""

    stacks = True
    fuses = True
    joint = True

    def build(self, around: Surroundings) -> JointConnector:
        """Make the projector.

        Raises:
            MomeError: there is not one rate, the same for audio and video.
        """
        if around.audio_rates != around.video_rates or len(around.video_rates) != 1 or around.video_width is None:
            raise MomeError(
                f"the connector joint has one rate for sound and lips together: give audio_rates and video_rates the "
                f"same one, not {list(around.audio_rates)} and {list(around.video_rates)}"
            )
        return JointConnector(around, around.video_width)

    def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
        """floor(video frames / rate) fused tokens."""
        return TokenCounts(fused=0 if rates.video is None else video_frames // int(rates.video))


class JointConnector(Connector):
    """Compression of joint features and their projection.

    State-dict keys: ``audiovisual.{0,2[,3]}.*``.
    """

    def __init__(self, around: Surroundings, width: int) -> None:
        """Connect features of ``width`` D with the language model."""
        super().__init__()
        (rate,), self.method = around.video_rates, around.compression
        self.audiovisual = Projector(
            compressed_width(width, rate, self.method), around.out_features, around.hidden, around.norm
        )

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """Make fused tokens; see :meth:`Connector.forward`.

        Args:
            audio: not read.
            video: joint features ``(B, T, D)``, 25 a second.
            rates: rates of each clip, the same for audio and video.
        """
        none: list[Tensor | None] = [None] * len(rates)
        return Connected(none, list(none), by_rate(video, [rate.video for rate in rates], self._tokens))

    def _tokens(self, frames: Tensor, lengths: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        pooled, pooled_lengths = compress(frames, lengths, int(rate), self.method)
        return self.audiovisual(pooled), pooled_lengths
