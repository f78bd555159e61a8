"""The configuration of a recogniser: enough to build it without weights."""

from transformers import AutoConfig

from mome.config.config import DEFAULT_PROMPTS, MomeConfig, VideoAdapterConfig

AutoConfig.register("mome", MomeConfig, exist_ok=True)

__all__ = ["DEFAULT_PROMPTS", "MomeConfig", "VideoAdapterConfig"]
