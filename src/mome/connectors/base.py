"""The interface of a connector: its options, which build it and know its tokens, and the module that they build.

A connector turns the encoders' features into the language model's tokens. To add one, write a subclass of
:class:`ConnectorConfig` and one of :class:`Connector`; nothing else in the package knows connectors by name.
docs/extending.md has an example.

Shape notation: B clips, T frames, D encoder width, N tokens, H width of the language model.
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
from mome.options import options_from_dict, register
from mome.rates import Rates
from mome.routing import RouterStatistics


class TokenCounts(NamedTuple):
    """Numbers of tokens of a clip: made of its audio, of its video, and of both together."""

    audio: int = 0
    video: int = 0
    fused: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What a recogniser's configuration tells any connector, whatever its type.

    Attributes:
        audio_rates, video_rates: rates that the recogniser is for.
        audio_width, video_width: widths D of the encoders' features; ``None`` without that encoder.
        out_features: width H of the language model.
        hidden: width between a projector's two linear layers.
        compression: whether a token is the average of its frames, a stack of them, or of averages of them.
        norm: whether projectors end with a LayerNorm.
    """

    audio_rates: tuple[int, ...]
    video_rates: tuple[int, ...]
    audio_width: int | None
    video_width: int | None
    out_features: int
    hidden: int = 2048
    compression: CompressionMethod = "average"
    norm: bool = False


@dataclass
class Connected:
    """Tokens of B clips: for each clip ``(N_i, H)`` without padding, or ``None``.

    Attributes:
        audio: tokens made of the audio alone; ``None`` for a clip whose rates leave out the audio.
        video: tokens made of the video alone; ``None`` for a clip whose rates leave out the video.
        fused: tokens made of audio and video together; ``None`` throughout unless the connector fuses them.
        losses: auxiliary losses by name, scalars: means over the tokens, not yet weighted.
        routing: router statistics over the valid tokens, by what the router reads (``audio``, ``video``,
            ``audiovisual``).
    """

    audio: list[Tensor | None]
    video: list[Tensor | None]
    fused: list[Tensor | None]
    losses: dict[str, Tensor] = field(default_factory=dict)
    routing: dict[str, RouterStatistics] = field(default_factory=dict)


class Connector(nn.Module, ABC):
    """Compression and projection of a batch; each clip has its own rates."""

    @abstractmethod
    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """Make the tokens of each clip at its rates.

        A clip's tokens must not depend on the other clips.

        Args:
            audio: audio features of all B clips; may be ``None`` if every clip's rates leave out the audio.
            video: video features of all B clips; may be ``None`` if every clip's rates leave out the video.
            rates: rates of each clip, B of them.

        Raises:
            MomeError: the connector does not have a clip's rates.
            ValueError: a clip's rates name a modality that was not given.
        """

    def losses(self, audio: Features | None, video: Features | None, words: Tensor) -> dict[str, Tensor]:
        """Auxiliary losses that do not depend on the rates, computed once a training step; none by default.

        Args:
            audio, video: features of all B clips; ``None`` where the batch has none.
            words: ``(B,)`` number of words spoken in each clip.

        Returns:
            Scalars by name; :meth:`ConnectorConfig.loss_weights` gives their factors.
        """
        return {}

    def active_parameters(self) -> int:
        """Number of parameters that one clip uses, the largest number over its possible rates; all by default."""
        return parameters(self)

    def operations(
        self, audio: Features | None, video: Features | None, rates: Rates, tokens: TokenCounts | None = None
    ) -> int:
        """Count the operations for one clip, with the connector on the meta device (:mod:`mome.operations`).

        The default runs :meth:`forward`. Override it for a connector whose forward pass looks at the values of
        features, which the meta device does not have.

        Args:
            audio, video: features ``(1, T, D)`` on the meta device, their lengths on the CPU; ``None`` where the
                rates leave out the modality.
            rates: rates of the clip.
            tokens: numbers of tokens that the clip became, if known.
        """
        return count_operations(lambda: self(audio, video, [rates]))


class ConnectorConfig(ABC):
    """The options of a connector, and what is known about it without its weights. Subclasses are frozen dataclasses.

    A subclass gives the connector's name: ``class SharedConfig(ConnectorConfig, kind="shared")``. Configurations and
    recipes choose the connector by this name, as the option ``type``.

    Attributes:
        kind: the name.
        any_rate: whether the connector takes any rate from 1 up, whole or not, besides the recogniser's own rates.
        stacks: whether it can stack frames instead of averaging them.
        fuses: whether it makes tokens of audio and video together (:attr:`Connected.fused`).
        separate: whether a clip's audio tokens are those of its audio rate alone: the same, by the same parameters,
            beside any video rate.
        joint: whether it reads the features of one AV-HuBERT for sound and lips together, in place of an audio encoder
            beside it.
        audio_frames_per_second: frames a second that the audio encoder must give; ``None``: any number.
    """

    kind: ClassVar[str]
    any_rate: ClassVar[bool] = False
    stacks: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    separate: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    audio_frames_per_second: ClassVar[int | None] = None

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        """Register the connector; raise ``ValueError`` if another one has its name."""
        super().__init_subclass__(**kwargs)
        register(CONNECTORS, kind, cls)
        cls.kind = kind

    @abstractmethod
    def build(self, around: Surroundings) -> Connector:
        """Make the connector, with new weights.

        Raises:
            MomeError: the options do not go with the rates or widths around it.
        """

    def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
        """Numbers of tokens of a clip with these numbers of encoder frames; by default floor(frames / rate)."""
        return TokenCounts(
            0 if rates.audio is None else audio_frames // int(rates.audio),
            0 if rates.video is None else video_frames // int(rates.video),
        )

    def loss_weights(self) -> dict[str, float]:
        """Factors of the connector's auxiliary losses, by the names of the losses."""
        return {}


CONNECTORS: dict[str, type[ConnectorConfig]] = {}
"""The connectors' options by kind; defining a subclass of :class:`ConnectorConfig` adds it."""


def connector_config(values: Mapping[str, Any] | None) -> ConnectorConfig:
    """Make the options that ``values`` describe.

    Args:
        values: ``"type"`` and any of that connector's options; without values a projector for every rate.

    Raises:
        MomeError: the type or an option is unknown, or a value is not possible.
    """
    return options_from_dict("connector", dict(sorted(CONNECTORS.items())), values or {"type": "projectors"})


def build_connector(config: ConnectorConfig, around: Surroundings) -> Connector:
    """Make the connector of these options, with new weights.

    Raises:
        MomeError: it cannot compress by this method, or as :meth:`ConnectorConfig.build`.
    """
    if around.compression != "average" and not config.stacks:
        able = " or ".join(kind for kind, other in CONNECTORS.items() if other.stacks)
        raise MomeError(
            f"compression={around.compression} is not possible with the connector {config.kind}: "
            f"leave it out, or choose the connector {able}"
        )
    return config.build(around)


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


Compressor = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""Compression of one modality: ``(frames (B, T, D), lengths (B,), rate)`` to ``(tokens (B, N, H), lengths (B,))``.

Frames and tokens are right-padded. ``lengths`` are integers: each clip's valid frames, and its valid tokens. Tokens
beyond a clip's length may hold anything; those before it have seen none of the padding. The rate is a whole number,
unless the connector takes any rate.
"""


def by_rate(features: Features | None, rates: Sequence[float | None], compress: Compressor) -> list[Tensor | None]:
    """Run ``compress`` once for each rate, on the clips that have it.

    Args:
        features: features of all clips.
        rates: rate of each clip; ``None`` for a clip that gets no tokens.
        compress: a :data:`Compressor`.

    Returns:
        Tokens ``(N_i, H)`` of each clip, without padding; ``None`` for a clip without a rate.

    Raises:
        ValueError: a clip has a rate, and there are no features.
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
    """Audio and video each through a module of its own.

    State-dict keys: ``audio.*`` and ``video.*``.

    Attributes:
        audio: module for audio, called as a :data:`Compressor`; ``None`` without audio.
        video: module for video, called as a :data:`Compressor`; ``None`` without video.
    """

    def __init__(self, audio: nn.Module | None, video: nn.Module | None) -> None:
        """Connect audio and video by the given modules."""
        super().__init__()
        self.audio = audio
        self.video = video

    @classmethod
    def of(cls, around: Surroundings, make: Callable[[tuple[int, ...], int], nn.Module]) -> Self:
        """Connect each modality that has an encoder by ``make(rates, width D)``."""
        sides = (around.audio_rates, around.audio_width), (around.video_rates, around.video_width)
        return cls(*(None if width is None else make(rates, width) for rates, width in sides))

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """See :meth:`Connector.forward`."""
        rows: list[list[Tensor | None]] = []
        for module, features, name in ((self.audio, audio, "audio"), (self.video, video, "video")):
            own = [getattr(rate, name) for rate in rates]
            rows.append([None] * len(rates) if module is None else by_rate(features, own, module))
        return Connected(rows[0], rows[1], [None] * len(rates))
