"""Frozen pre-trained encoders: clips to tokens, their lengths, and how many there are per second."""

from mome.encoders.avhubert import AVHubertAudioEncoder, AVHubertConfig, AVHubertModel
from mome.encoders.waveform import WaveformAudioEncoder
from mome.encoders.whisper import WhisperAudioEncoder

__all__ = [
    "AVHubertAudioEncoder",
    "AVHubertConfig",
    "AVHubertModel",
    "WaveformAudioEncoder",
    "WhisperAudioEncoder",
]
