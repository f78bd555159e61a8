"""What an audio encoder is: a pre-trained model, and what is known about it without its weights.

To add one, write a subclass of :class:`AudioEncoder`; nothing else in the package knows the encoders by name. A video
encoder is a model that Transformers' Auto classes know and whose forward pass returns
:class:`~mome.features.Features`, as :class:`~mome.encoders.avhubert.AVHubertModel`.

Shape notation: B clips, C input channels, M input frames, T tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from mome.errors import MomeError
from mome.features import Features

AudioContext = Literal["window", "clip"]
Report = dict[str, Any]
"""What Transformers tells of the weights that it has loaded."""


class AudioEncoder(nn.Module, ABC):
    """A frozen audio encoder that gives each clip the tokens it would have by itself.

    A subclass names what it reads and the types of the Transformers configurations that it wraps:
    ``class WhisperAudioEncoder(AudioEncoder, reads="log_mel", types=("whisper",))``.

    Args:
        encoder: the pre-trained model.
        context: how much an encoder with a fixed window computes, see :class:`WhisperAudioEncoder`; for the others
            it says nothing.

    Attributes:
        reads: its kind of input, as the processor's files name it.
        extractor: the class of its feature extractor; ``None`` where it needs none.
    """

    reads: ClassVar[str]
    extractor: ClassVar[type | None] = None

    def __init_subclass__(cls, reads: str, types: tuple[str, ...], **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reads = reads
        AUDIO_ENCODERS.update(dict.fromkeys(types, cls))

    def __init__(self, encoder: PreTrainedModel, context: AudioContext = "window"):
        super().__init__()
        self.encoder = encoder
        self.context = context

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens."""
        return int(self.encoder.config.hidden_size)

    @abstractmethod
    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            input_features: ``(B, C, M)`` float, right-padded.
            input_features_mask: ``(B, M)`` bool, true on real frames; without it all are.

        Returns:
            Features with a length of 0 for a clip too short for one token.
        """

    @abstractmethod
    def example(self, tokens: int) -> Tensor:
        """An input ``(1, C, M)`` on the meta device of a clip that gives so many tokens."""

    @staticmethod
    @abstractmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """Tokens that a clip of so many samples at 16 kHz gives."""

    @staticmethod
    @abstractmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """Tokens a second."""

    @staticmethod
    @abstractmethod
    def features(waveform: np.ndarray, extractor: Any, context: AudioContext) -> tuple[np.ndarray, int]:
        """The input of one clip.

        Args:
            waveform: ``(samples,)`` float32, 16 kHz mono.
            extractor: of the class ``extractor``.
            context: as for the encoder.

        Returns:
            ``(C, M)`` float32 and the number of real frames.

        Raises:
            MomeError: the clip is too long.
        """

    @staticmethod
    def new(config: PreTrainedConfig) -> PreTrainedModel:
        """A model with random weights to wrap."""
        return AutoModel.from_config(config, trust_remote_code=False)

    @staticmethod
    def load(config: PreTrainedConfig, load: Callable[[Any], tuple[Any, Report]]) -> tuple[PreTrainedModel, Report]:
        """The pre-trained model to wrap, and the report on its weights.

        Args:
            config: of the model's files.
            load: reads them as a class of Transformers.
        """
        return load(AutoModel)

    @staticmethod
    def window(extractor: Any) -> float | None:
        """Seconds of sound that the encoder can read at once; ``None``: any number."""
        return None

    @staticmethod
    def needed(config: PreTrainedConfig) -> dict[str, Any]:
        """Settings that the feature extractor must have for the encoder of this configuration."""
        return {}


AUDIO_ENCODERS: dict[str, type[AudioEncoder]] = {}
"""The audio encoders by the type of their configuration; an encoder enters when its class is made."""


def audio_encoder(config: PreTrainedConfig, what: str = "audio_config") -> type[AudioEncoder]:
    """The audio encoder of a configuration.

    Raises:
        MomeError: there is none for its type.
    """
    if config.model_type not in AUDIO_ENCODERS:
        raise MomeError(f"{what} is of type {config.model_type}, not one of {', '.join(sorted(AUDIO_ENCODERS))}")
    return AUDIO_ENCODERS[config.model_type]


def encoder_reading(kind: str) -> type[AudioEncoder]:
    """The audio encoder with this kind of input.

    Raises:
        MomeError: there is none.
    """
    kinds = {encoder.reads: encoder for encoder in AUDIO_ENCODERS.values()}
    if kind not in kinds:
        raise MomeError(f"audio_input {kind!r:.60} is unknown: choose one of {', '.join(kinds)}")
    return kinds[kind]


def z_normalize(waveform: np.ndarray) -> np.ndarray:
    """``(samples,)`` float32 → the same with mean 0 and variance 1 over the utterance (eps 1e-8)."""
    centred = waveform - waveform.mean()
    return (centred / np.sqrt(centred.var() + 1e-8)).astype(np.float32)
