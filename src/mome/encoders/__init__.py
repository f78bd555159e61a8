"""Frozen pre-trained encoders: sound or mouth video to features.

All modules of this folder are imported, and so the audio encoders in them are registered.
"""

import importlib
import pkgutil

from mome.encoders.base import AUDIO_ENCODERS, AudioContext, AudioEncoder, audio_encoder, encoder_reading

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["AUDIO_ENCODERS", "AudioContext", "AudioEncoder", "audio_encoder", "encoder_reading"]
