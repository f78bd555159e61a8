"""AV-HuBERT (Shi et al., ICLR 2022) in plain PyTorch, for inference and fine-tuning."""

from transformers import AutoConfig, AutoModel

from mome.encoders.avhubert.audio import AVHubertAudioEncoder
from mome.encoders.avhubert.config import AVHubertConfig
from mome.encoders.avhubert.filterbank import stacked_log_filterbank
from mome.encoders.avhubert.model import AVHubertModel

AutoConfig.register("avhubert", AVHubertConfig, exist_ok=True)
AutoModel.register(AVHubertConfig, AVHubertModel, exist_ok=True)

__all__ = ["AVHubertAudioEncoder", "AVHubertConfig", "AVHubertModel", "stacked_log_filterbank"]
