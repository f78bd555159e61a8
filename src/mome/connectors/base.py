"""What a connector is: options that say what it needs, gives and costs, and the module that they build.

A connector turns the encoders' features into the language model's tokens. To add one, write a subclass of
:class:`ConnectorConfig` and one of :class:`Connector`; nothing else in the package knows the connectors by name.

Shape notation: B clips, T frames, D encoder width, H width of the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from mome.connectors.pooling import CompressionMethod
from mome.errors import MomeError
from mome.features import Features
from mome.operations import count_operations
from mome.options import options_from_dict
from mome.rates import Rates
from mome.routing import RouterStatistics


class TokenCounts(NamedTuple):
    """Language-model tokens of a clip made of the audio, of the video, and of both together."""

    audio: int = 0
    video: int = 0
    fused: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What the rest of a recogniser gives its connector and wants of it.

    Attributes:
        audio_rates, video_rates: that tokens are wanted at.
        audio_features, video_features: widths D of the encoders' tokens; ``None`` without that encoder.
        out_features: width H of the language model.
        hidden: width between a projector's two linear layers.
        compression: how frames become tokens.
        norm: whether projectors end with a LayerNorm.
    """

    audio_rates: tuple[int, ...]
    video_rates: tuple[int, ...]
    audio_features: int | None
    video_features: int | None
    out_features: int
    hidden: int = 2048
    compression: CompressionMethod = "average"
    norm: bool = False


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
    """

    audio: list[Tensor | None]
    video: list[Tensor | None]
    fused: list[Tensor | None]
    losses: dict[str, Tensor] = field(default_factory=dict)
    routing: dict[str, RouterStatistics] = field(default_factory=dict)


class Connector(nn.Module, ABC):
    """Compression and projection of a batch in which every clip has rates of its own."""

    @abstractmethod
    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """Make the tokens of each clip at its rates.

        Args:
            audio: audio features of all B clips; ``None`` if no clip's rates ask for audio.
            video: video features, likewise.
            rates: one per clip.

        Raises:
            MomeError: the connector does not have a clip's rates.
        """

    def losses(self, audio: Features | None, video: Features | None, words: Tensor) -> dict[str, Tensor]:
        """Auxiliary losses that do not depend on the rates, once for each training step; by default none.

        Args:
            audio, video: features of all B clips, where they were given.
            words: ``(B,)`` words spoken in each clip.
        """
        return {}

    def active_parameters(self) -> int:
        """Parameters that one clip uses, the most where rates differ; by default all."""
        return parameters(self)

    def operations(
        self, audio: Features | None, video: Features | None, rates: Rates, tokens: TokenCounts | None = None
    ) -> int:
        """Operations of one clip, of a connector on the meta device (:mod:`mome.operations`).

        By default those of :meth:`forward`, counted. A connector whose forward pass depends on what features hold
        counts its parts instead.

        Args:
            audio, video: features ``(1, T, D)`` on the meta device, their lengths on the CPU.
            rates: of the clip.
            tokens: that were made of the clip, where that is known.
        """
        return count_operations(lambda: self(audio, video, [rates]))


class ConnectorConfig(ABC):
    """The options of a connector, a frozen dataclass; what is known of the connector without its weights.

    A subclass names the connector: ``class SharedConfig(ConnectorConfig, kind="shared")``. Configurations and recipes
    choose it as ``type``.

    Attributes:
        kind: the name, given as the option ``type``.
        any_rate: whether any rate will do, whole or not, and not only the listed ones.
        stacks: whether frames can be stacked instead of averaged.
        fuses: whether audio and video become tokens together.
        audio_frames_per_second: that its audio encoder must give; ``None``: any number.
    """

    kind: ClassVar[str]
    any_rate: ClassVar[bool] = False
    stacks: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    audio_frames_per_second: ClassVar[int | None] = None

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        CONNECTORS[kind] = cls

    @abstractmethod
    def build(self, around: Surroundings) -> Connector:
        """Make the connector, with new weights.

        Raises:
            MomeError: it cannot do what is wanted of it.
        """

    def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
        """Tokens of a clip of so many frames; by default the whole part of frames / rate."""
        return TokenCounts(
            0 if rates.audio is None else audio_frames // int(rates.audio),
            0 if rates.video is None else video_frames // int(rates.video),
        )

    def loss_weights(self) -> dict[str, float]:
        """Factors of the connector's auxiliary losses by their names."""
        return {}


CONNECTORS: dict[str, type[ConnectorConfig]] = {}
"""All connectors by type; a connector enters when its class is made."""


def connector_config(values: Mapping[str, Any] | None) -> ConnectorConfig:
    """The options that ``values`` describe: their ``type`` and fields; a projector for every rate without any.

    Raises:
        MomeError: the type or an option is unknown, or a value is not possible.
    """
    return options_from_dict("connector", dict(sorted(CONNECTORS.items())), values or {"type": "projectors"})


def build_connector(config: ConnectorConfig, around: Surroundings) -> Connector:
    """Make a connector, once it is known to compress as is wanted.

    Raises:
        MomeError: it does not, or cannot do what else is wanted of it.
    """
    if around.compression != "average" and not config.stacks:
        raise MomeError(
            f"compression={around.compression} is not possible with the connector {config.kind}: "
            "leave it out, or choose the connector projectors or mixture"
        )
    return config.build(around)


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


Compressor = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def by_rate(features: Features | None, rates: Sequence[float | None], compress: Compressor) -> list[Tensor | None]:
    """Run ``compress`` once for each rate, on the clips that have it.

    Args:
        features: of all clips.
        rates: one per clip; ``None`` for a clip that gets no tokens.
        compress: ``(tokens (B', T, D), lengths (B',), rate)`` to tokens ``(B', T', H)`` and lengths ``(B',)``.

    Returns:
        Tokens ``(T_i, H)`` per clip, unpadded.
    """
    tokens: list[Tensor | None] = [None] * len(rates)
    for rate in sorted({rate for rate in rates if rate is not None}):
        if features is None:
            raise ValueError(f"a clip asks for rate {rate} of a modality that was not given")
        chosen = [index for index, other in enumerate(rates) if other == rate]
        made, lengths = compress(features.frames[chosen], features.lengths[chosen], rate)
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

    @classmethod
    def of(cls, around: Surroundings, make: Callable[[tuple[int, ...], int], nn.Module]) -> Self:
        """Connect each modality that there is by what ``make`` makes of its rates and width."""
        sides = (around.audio_rates, around.audio_features), (around.video_rates, around.video_features)
        return cls(*(None if features is None else make(rates, features) for rates, features in sides))

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """See :meth:`Connector.forward`."""
        rows: list[list[Tensor | None]] = []
        for module, features, name in ((self.audio, audio, "audio"), (self.video, video, "video")):
            wanted = [getattr(rate, name) for rate in rates]
            rows.append([None] * len(rates) if module is None else by_rate(features, wanted, module))
        return Connected(rows[0], rows[1], [None] * len(rates))
