"""The speech recogniser: encoders, compression, projectors and a frozen language model with adapters."""

from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

from mome.encoders.avhubert import AVHubertConfig
from mome.model.config import MomeConfig
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

AutoConfig.register("avhubert", AVHubertConfig, exist_ok=True)
AutoConfig.register("mome", MomeConfig, exist_ok=True)
AutoModelForMultimodalLM.register(MomeConfig, MomeForSpeechRecognition, exist_ok=True)
AutoProcessor.register(MomeConfig, MomeProcessor, exist_ok=True)

__all__ = ["MomeConfig", "MomeForSpeechRecognition", "MomeProcessor"]
