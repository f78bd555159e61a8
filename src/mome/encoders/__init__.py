"""Frozen pre-trained encoders: clips to features, their lengths, and how many tokens there are per second.

Every module of this folder is imported, so that the encoders in it are known.
"""

import importlib
import pkgutil

from mome.encoders.base import AUDIO_ENCODERS, AudioContext, AudioEncoder, audio_encoder, encoder_reading

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["AUDIO_ENCODERS", "AudioContext", "AudioEncoder", "audio_encoder", "encoder_reading"]
