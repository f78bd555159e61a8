"""Frozen pre-trained encoders: clips to tokens, their lengths, and how many there are per second."""

from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.encoders.features import Features
from mome.encoders.whisper import WhisperAudioEncoder

__all__ = ["AVHubertConfig", "AVHubertModel", "Features", "WhisperAudioEncoder"]
