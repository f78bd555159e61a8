"""Elastic audio-visual speech recognition with language models.

One set of weights; the number of audio and video tokens that the language model reads is chosen per request::

    import mome
    model = mome.load()                              # the bundled demonstration model
    print(model.transcribe("clip.mp4", rates="4,2").text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mome.errors import MomeError
from mome.rates import Rates, RateSet
from mome.registration import register

if TYPE_CHECKING:
    from mome.config import MomeConfig
    from mome.decoding import Transcriber, load
    from mome.model import MomeForSpeechRecognition, MomeProcessor

__version__ = "0.1.0"
__all__ = [
    "MomeConfig",
    "MomeError",
    "MomeForSpeechRecognition",
    "MomeProcessor",
    "RateSet",
    "Rates",
    "Transcriber",
    "load",
]

_HOMES = {
    "MomeConfig": "mome.config",
    "MomeForSpeechRecognition": "mome.model",
    "MomeProcessor": "mome.model",
    "Transcriber": "mome.decoding",
    "load": "mome.decoding",
}
_PACKAGES = (
    *("adapters", "config", "connectors", "data", "decoding", "encoders", "evaluation", "media", "model", "text"),
    "training",
)


def __getattr__(name: str) -> Any:
    """Import a package, and with it PyTorch, when it or one of its names is first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"mome.{name}")
    raise AttributeError(f"module 'mome' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What there is to use."""
    return sorted([*__all__, *_PACKAGES, "__version__"])


register()
