"""Elastic audio-visual speech recognition with language models.

One set of weights; the number of audio and video tokens that the language model reads is chosen per request::

    import mome
    model = mome.load()                              # the bundled demonstration model
    print(model.transcribe("clip.mp4", rates="4,2").text)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mome.errors import MomeError
from mome.rates import RateGrid, Rates

if TYPE_CHECKING:
    from mome.decoding import Transcriber, load
    from mome.model import MomeConfig, MomeForSpeechRecognition, MomeProcessor

__version__ = "0.1.0"
__all__ = [
    "MomeConfig",
    "MomeError",
    "MomeForSpeechRecognition",
    "MomeProcessor",
    "RateGrid",
    "Rates",
    "Transcriber",
    "load",
]

_HOMES = {
    "MomeConfig": "mome.model",
    "MomeForSpeechRecognition": "mome.model",
    "MomeProcessor": "mome.model",
    "Transcriber": "mome.decoding",
    "load": "mome.decoding",
}


def __getattr__(name: str) -> Any:
    """Import PyTorch and the rooms above only when something of theirs is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("adapters", "decoding", "media", "model", "text", "training", "evaluation"):
        return importlib.import_module(f"mome.{name}")
    raise AttributeError(f"module 'mome' has no attribute '{name}'")


_AUTO = "transformers.models.auto"


class _Registration(MetaPathFinder):
    """Imports :mod:`mome.model`, which registers its classes, right after Transformers' Auto classes are loaded.

    Registering at once would load PyTorch, which takes seconds: ``mome --help`` and a program that only wants
    ``mome.Rates`` need neither.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The Auto classes' module, so that its loading ends with the registration; nothing for all others."""
        if name != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                importlib.import_module("mome.model")

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if _AUTO in sys.modules:
    importlib.import_module("mome.model")
else:
    sys.meta_path.insert(0, _Registration())
