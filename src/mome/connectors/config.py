"""Which connector a model has, by ``type``, and the connector's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mome.errors import MomeError, shortened
from mome.options import options_from_dict

Sharing = Literal["joint", "experts", "none"]
LARGEST, MOST_MODULES = 2**20, 64  # far beyond sense, so that a model's size can be computed


def _whole(name: str, value: Any, most: int = LARGEST) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MomeError(f"{name} = {shortened(repr(value))} is not possible: give a whole number from 1 up")
    if value > most:
        raise MomeError(f"{name} = {shortened(value)} is not possible: give at most {most}")


@dataclass(frozen=True)
class ProjectorsConfig:
    """One projector for every rate of each modality (Llama-AVSR, Llama-MTSK, MoME)."""


@dataclass(frozen=True)
class SharedConfig:
    """One projector for all rates of a modality, pooled afterwards (M3, "Matryoshka Multimodal Models")."""


@dataclass(frozen=True)
class MixtureConfig:
    """A sparse mixture of projectors for all rates (Llama-SMoP).

    Attributes:
        experts: projectors to choose from.
        top_k: projectors active for a token.
        sharing: ``"joint"`` one router and one set of experts for audio and video (JEJR; their encoders must have
            the same width), ``"experts"`` one set of experts but a router each (JEDR), ``"none"`` nothing (DEDR).
        balance_weight: factor of the load-balancing loss.
        z_weight: factor of the router z-loss.
    """

    experts: int = 4
    top_k: int = 2
    sharing: Sharing = "joint"
    balance_weight: float = 0.01
    z_weight: float = 0.001

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        _whole("experts", self.experts, MOST_MODULES)
        _whole("top_k", self.top_k)
        if self.top_k > self.experts:
            raise MomeError(f"top_k = {self.top_k} is more than experts = {self.experts}: lower it or add experts")
        if self.sharing not in get_args(Sharing):
            raise MomeError(
                f"sharing '{shortened(self.sharing)}' is unknown: choose one of {', '.join(get_args(Sharing))}"
            )


@dataclass(frozen=True)
class ResamplerConfig:
    """Learned queries that read the encoder tokens, of which the first m are used (MQT).

    Attributes:
        queries: how many there are, the most tokens that a clip can have.
        heads: attention heads.
    """

    queries: int = 256
    heads: int = 16

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        _whole("queries", self.queries)
        _whole("heads", self.heads)


@dataclass(frozen=True)
class QFormerConfig:
    """Early fusion and a Q-Former whose number of queries follows length and speech rate (MMS-LLaMA).

    Attributes:
        queries_per_second: queries for a second of normally fast speech.
        longest: seconds that there are queries for, at normal speed; half of what is learned.
        hidden: width of the Q-Former.
        layers: its layers.
        heads: its attention heads.
        inner: its feed-forward width.
        speech_rate: whether a predictor of the speech rate, trained along, widens the number of queries.
        words_per_second: of normally fast speech, the mean of the training set (LRS3: 2.71).
    """

    queries_per_second: int = 3
    longest: int = 20
    hidden: int = 1024
    layers: int = 2
    heads: int = 16
    inner: int = 4096
    speech_rate: bool = True
    words_per_second: float = 2.71

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        for name in ("queries_per_second", "longest", "hidden", "heads", "inner"):
            _whole(name, getattr(self, name))
        _whole("layers", self.layers, MOST_MODULES)
        if not self.words_per_second > 0:
            raise MomeError(f"words_per_second = {self.words_per_second!r} is not possible: give a positive number")


ConnectorConfig = ProjectorsConfig | SharedConfig | MixtureConfig | ResamplerConfig | QFormerConfig
_KINDS: dict[str, type[ConnectorConfig]] = {
    "projectors": ProjectorsConfig,
    "shared": SharedConfig,
    "mixture": MixtureConfig,
    "resampler": ResamplerConfig,
    "qformer": QFormerConfig,
}


def connector_config_from_dict(values: Mapping[str, Any]) -> ConnectorConfig:
    """The configuration that ``values`` describe; see :func:`mome.options.options_from_dict`.

    Raises:
        MomeError: the type or an option is unknown, or a value is not possible.
    """
    return options_from_dict("connector", _KINDS, values)
