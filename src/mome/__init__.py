"""Elastic audio-visual speech recognition with language models.

One set of weights; the number of audio and video tokens that the language model reads is chosen per request::

    import mome
    model = mome.load()                              # the bundled demonstration model
    print(model.transcribe("clip.mp4", rates="4,2").text)
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from mome.errors import MomeError
from mome.rates import Rates, RateSet

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
_ROOMS = ("adapters", "config", "connectors", "data", "decoding", "evaluation", "media", "model", "text", "training")


def __getattr__(name: str) -> Any:
    """Import PyTorch and the rooms above only when something of theirs is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in (
        "adapters",
        "config",
        "connectors",
        "data",
        "decoding",
        "evaluation",
        "media",
        "model",
        "text",
        "training",
    ):
        return importlib.import_module(f"mome.{name}")
    raise AttributeError(f"module 'mome' has no attribute '{name}'")


def _is_command_line() -> bool:
    """Whether the program is ``mome`` or ``python -m mome``, which its name alone does not tell."""
    if sys.argv[:1] == ["-m"]:  # so it is until the module is found, whichever it is
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "mome"
    main: Any = sys.modules.get("__main__")
    if not hasattr(main, "__file__"):
        return sys.argv[:1] == ["mome"]
    try:
        return "from mome.cli import main" in (main.__loader__.get_source("__main__") or "")
    except (AttributeError, ImportError, OSError):
        return False


# `import mome` registers the classes with Transformers' Auto classes, which takes seconds. The command line, which must
# answer `--help` at once, does without until a command needs a model.
if not _is_command_line():
    importlib.import_module("mome.model")
