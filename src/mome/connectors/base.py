"""What every way from encoder tokens to language-model tokens has in common.

Shape notation: B clips, T frames, D encoder width, H width of the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from mome.features import Features
from mome.rates import Rates
from mome.routing import RouterStatistics


@dataclass
class Connected:
    """Language-model tokens of B clips, each ``(T_i, H)`` without padding, or ``None`` where a clip has none.

    Attributes:
        audio: tokens made of the audio alone.
        video: tokens made of the video alone.
        fused: tokens made of audio and video together.
        losses: auxiliary losses by name, as means over the tokens and without their weights.
        routing: statistics of the routers over the valid tokens, by what they route (``audio``, ``video``,
            ``audiovisual``).
        speech_rates: by how much each clip was stretched, where its speech rate counts.
    """

    audio: list[Tensor | None]
    video: list[Tensor | None]
    fused: list[Tensor | None]
    losses: dict[str, Tensor] = field(default_factory=dict)
    routing: dict[str, RouterStatistics] = field(default_factory=dict)
    speech_rates: list[float] | None = None


class Connector(nn.Module, ABC):
    """Compression and projection of a batch in which every clip has rates of its own."""

    @abstractmethod
    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """Make the tokens of each clip at its rates.

        Args:
            audio: audio tokens of all B clips; ``None`` if no clip's rates ask for audio.
            video: video tokens, likewise.
            rates: one per clip.

        Raises:
            MomeError: the connector does not have a clip's rates.
        """


Compressor = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def by_rate(stream: Features | None, rates: Sequence[float | None], compress: Compressor) -> list[Tensor | None]:
    """Run ``compress`` once for each rate, on the clips that have it.

    Args:
        stream: encoder tokens of all clips.
        rates: one per clip; ``None`` for a clip that gets no tokens.
        compress: ``(tokens (B', T, D), lengths (B',), rate)`` to tokens ``(B', T', H)`` and lengths ``(B',)``.

    Returns:
        Tokens ``(T_i, H)`` per clip, unpadded.
    """
    tokens: list[Tensor | None] = [None] * len(rates)
    for rate in sorted({rate for rate in rates if rate is not None}):
        if stream is None:
            raise ValueError(f"a clip asks for rate {rate} of a modality that was not given")
        chosen = [index for index, other in enumerate(rates) if other == rate]
        made, lengths = compress(stream.tokens[chosen], stream.lengths[chosen], rate)
        for index, row, length in zip(chosen, made, lengths.tolist(), strict=True):
            tokens[index] = row[:length]
    return tokens


class SeparateConnector(Connector):
    """Audio and video each through a module of their own, such as :class:`RateProjectors`.

    Attributes:
        audio: module for audio ``(tokens, lengths, rate) -> (tokens, lengths)``; ``None`` without audio.
        video: likewise.
    """

    def __init__(self, audio: nn.Module | None, video: nn.Module | None) -> None:
        """Connect by the given modules."""
        super().__init__()
        self.audio = audio
        self.video = video

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """See :meth:`Connector.forward`."""
        rows: list[list[Tensor | None]] = []
        for module, stream, name in ((self.audio, audio, "audio"), (self.video, video, "video")):
            wanted = [getattr(rate, name) for rate in rates]
            rows.append([None] * len(rates) if module is None else by_rate(stream, wanted, module))
        return Connected(rows[0], rows[1], [None] * len(rates))
