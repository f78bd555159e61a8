"""Everything that defines a recogniser, from which it can be built without weights."""

from transformers import AutoConfig

from mome.config.config import DEFAULT_PROMPTS, MomeConfig, VideoAdapterConfig

AutoConfig.register("mome", MomeConfig, exist_ok=True)

__all__ = ["DEFAULT_PROMPTS", "MomeConfig", "VideoAdapterConfig"]
