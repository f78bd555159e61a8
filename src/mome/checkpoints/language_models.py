"""The supported language models."""

from __future__ import annotations

from transformers import PreTrainedConfig

from mome.errors import MomeError

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # Transformers' names

# fmt: off
LANGUAGE_MODELS = frozenset({
    "apertus", "arcee", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "cwm", "doge", "ernie4_5",
    "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gptj", "granite", "helium", "hunyuan_v1_dense", "jais2", "llama", "ministral", "ministral3", "mistral", "mpt",
    "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss",
    "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm",
})
# fmt: on
"""Types of Transformers' dense causal language models whose output does not depend on padding and whose operations
:mod:`mome.model.cost` counts, as tests show."""


def check_language_model(config: PreTrainedConfig, what: str = "the language model") -> None:
    """Raise :class:`MomeError` unless a configuration is of a supported type: dense and for text alone."""
    text = getattr(config, "text_config", None)
    if text is not None:
        raise MomeError(
            f"{what} is of type {config.model_type}, which reads more than text and cannot be used: give one of text "
            f"alone, here {text.model_type}"
        )
    experts = max(getattr(config, name, None) or 0 for name in EXPERT_COUNTS)
    if experts > 1 and getattr(config, "is_moe", True):
        raise MomeError(
            f"{what} is of type {config.model_type}, itself a mixture of {experts} experts, and cannot be used: give a "
            "dense one"
        )
    if config.model_type not in LANGUAGE_MODELS:
        raise MomeError(
            f"{what} is of type {config.model_type}, which is not supported: give one of "
            f"{', '.join(sorted(LANGUAGE_MODELS))}"
        )
