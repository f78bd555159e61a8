"""The speech recogniser: encoders, connector and a frozen language model with adapters."""

from transformers import AutoModelForMultimodalLM, AutoProcessor

from mome.config import MomeConfig
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

AutoModelForMultimodalLM.register(MomeConfig, MomeForSpeechRecognition, exist_ok=True)
AutoProcessor.register(MomeConfig, MomeProcessor, exist_ok=True)

__all__ = ["MomeForSpeechRecognition", "MomeProcessor"]
