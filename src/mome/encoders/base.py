"""The interface of an audio encoder: a wrapper of a pre-trained model, and facts that need no weights.

To add an audio encoder, write a subclass of :class:`AudioEncoder`; nothing else in the package knows encoders by name.
A video encoder needs no wrapper: it is a model that Transformers' Auto classes know and whose forward pass returns
:class:`~mome.features.Features`, such as :class:`~mome.encoders.avhubert.AVHubertModel`. docs/extending.md has an
example.

Shape notation: B clips, C input channels, M input frames, T encoder frames, D width.
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
from mome.options import register

AudioContext = Literal["window", "clip", "clip+silence"]
Report = dict[str, Any]
"""Transformers' ``loading_info``: keys that were missing, unexpected or of another shape."""


class AudioEncoder(nn.Module, ABC):
    """A frozen audio encoder. A clip's features do not depend on the other clips of its batch.

    A subclass gives the name of its input, and the ``model_type`` of the Transformers models that it wraps:
    ``class WhisperAudioEncoder(AudioEncoder, reads="log_mel", types=("whisper",))``. A subclass of another encoder
    may leave ``reads`` out: it then reads its parent's input.

    Args:
        encoder: the pre-trained model.
        context: how much an encoder with a fixed window computes, see :class:`WhisperAudioEncoder`; other encoders
            ignore it.

    Attributes:
        reads: name of the input, as in the processor's files.
        extractor: class of the Transformers feature extractor that :meth:`prepare` uses; ``None``: it uses none.
    """

    reads: ClassVar[str]
    extractor: ClassVar[type | None] = None

    def __init_subclass__(cls, types: tuple[str, ...], reads: str | None = None, **kwargs: Any) -> None:
        """Register the encoder; raise ``ValueError`` if another one has its input's name or one of its types."""
        super().__init_subclass__(**kwargs)
        if reads is not None:
            register(_INPUTS, reads, cls)
            cls.reads = reads
        for name in types:
            register(AUDIO_ENCODERS, name, cls)

    def __init__(self, encoder: PreTrainedModel, context: AudioContext = "window") -> None:
        """Wrap ``encoder``."""
        super().__init__()
        self.encoder = encoder
        self.context = context

    @property
    def hidden_size(self) -> int:
        """Width D of the features."""
        return int(self.encoder.config.hidden_size)

    @abstractmethod
    def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            input_features: ``(B, C, M)`` float, right-padded.
            input_features_mask: ``(B, M)`` bool, true on real frames; without it all are.

        Returns:
            Features ``(B, T, D)``, zero beyond each clip's length; the length is 0 for a clip too short for a frame.
        """

    @abstractmethod
    def example(self, frames: int) -> Tensor:
        """Make an input ``(1, C, M)`` on the meta device that gives this many frames, to count operations with."""

    @staticmethod
    @abstractmethod
    def frames(config: PreTrainedConfig, samples: int) -> int:
        """Number of encoder frames T of a clip of ``samples`` samples at 16 kHz."""

    @staticmethod
    @abstractmethod
    def frames_per_second(config: PreTrainedConfig) -> int:
        """Encoder frames a second."""

    @staticmethod
    @abstractmethod
    def prepare(waveform: np.ndarray, extractor: Any, context: AudioContext) -> tuple[np.ndarray, int]:
        """Make the input of one clip.

        Args:
            waveform: ``(samples,)`` float32, 16 kHz mono.
            extractor: an instance of the class ``extractor``.
            context: as for the encoder.

        Returns:
            Input ``(C, M)`` float32, and how many of its M frames are real, not padding.

        Raises:
            MomeError: the clip is too long.
        """

    @staticmethod
    def new(config: PreTrainedConfig) -> PreTrainedModel:
        """Make the model to wrap, with random weights."""
        model: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=False)
        return model

    @staticmethod
    def load(config: PreTrainedConfig, load: Callable[[Any], tuple[Any, Report]]) -> tuple[PreTrainedModel, Report]:
        """Load the model to wrap.

        Args:
            config: the configuration in the model's files.
            load: loads the files with the ``from_pretrained`` of the Transformers class that it is given.

        Returns:
            The model, and the report on its weights.
        """
        return load(AutoModel)

    @staticmethod
    def window(extractor: Any) -> float | None:
        """Longest sound in seconds that the encoder reads; ``None``: no limit."""
        return None

    @staticmethod
    def extractor_settings(config: PreTrainedConfig) -> dict[str, Any]:
        """Attributes, with their values, that the feature extractor must have for an encoder of this configuration."""
        return {}


AUDIO_ENCODERS: dict[str, type[AudioEncoder]] = {}
"""The audio encoders by the ``model_type`` that they wrap; defining a subclass of :class:`AudioEncoder` adds it."""
_INPUTS: dict[str, type[AudioEncoder]] = {}


def audio_encoder(config: PreTrainedConfig, what: str = "audio_config") -> type[AudioEncoder]:
    """The wrapper for models of a configuration.

    Args:
        config: an audio encoder's configuration.
        what: how a message names it.

    Raises:
        MomeError: no audio encoder wraps models of its type.
    """
    if config.model_type not in AUDIO_ENCODERS:
        raise MomeError(f"{what} is of type {config.model_type}, not one of {', '.join(sorted(AUDIO_ENCODERS))}")
    return AUDIO_ENCODERS[config.model_type]


def encoder_reading(audio_input: str) -> type[AudioEncoder]:
    """The audio encoder that prepares and reads an input.

    Args:
        audio_input: an encoder's ``reads``.

    Raises:
        MomeError: no audio encoder reads it.
    """
    if audio_input not in _INPUTS:
        raise MomeError(f"audio_input {audio_input!r:.60} is unknown: choose one of {', '.join(_INPUTS)}")
    return _INPUTS[audio_input]


def z_normalize(waveform: np.ndarray) -> np.ndarray:
    """Scale a waveform ``(samples,)`` float32 to mean 0 and variance 1 (eps 1e-8)."""
    centred = waveform - waveform.mean()
    scaled: np.ndarray = centred / np.sqrt(centred.var() + 1e-8)
    return scaled.astype(np.float32)
