"""Tiny random language models of several families."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from mome.adapters import AdapterConfig, LoraAdapterConfig, MomeAdapterConfig, adapter_parameters, attach

CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma3": Gemma3TextConfig, "mistral": MistralConfig}
FAMILIES = tuple(CONFIGS)
ADAPTERS: dict[str, AdapterConfig] = {
    "layer": MomeAdapterConfig("layer", routed_experts=5, top_k=2, bottleneck=3),
    "layer-raw": MomeAdapterConfig("layer", routed_experts=5, top_k=2, bottleneck=3, normalize_input=False),
    "attention": MomeAdapterConfig("attention", routed_experts=5, top_k=2, bottleneck=3),
    "ffn": MomeAdapterConfig("ffn", routed_experts=5, shared_experts=2, top_k=3, bottleneck=1, renormalize=True),
    "lora": LoraAdapterConfig(4, targets=("q_proj", "v_proj", "down_proj")),
}
# Adapters that want to know the group of each sequence.
GROUPED: dict[str, LoraAdapterConfig] = {
    "lora-ss": LoraAdapterConfig(4, targets=("q_proj", "v_proj", "down_proj"), shared=False, specific=3),
    "lora-mss": LoraAdapterConfig(3, 0.25, specific=3),
}
# Banks with a router for each group.
ROUTED: dict[str, MomeAdapterConfig] = {
    "routers-layer": MomeAdapterConfig("layer", routed_experts=5, top_k=2, bottleneck=3, routers=3),
    "routers-attention": MomeAdapterConfig("attention", routed_experts=5, top_k=2, renormalize=True, routers=3),
    "routers-ffn": MomeAdapterConfig("ffn", routed_experts=5, shared_experts=0, top_k=1, bottleneck=1, routers=3),
}
BANKS = tuple(name for name in ADAPTERS if name != "lora")
WIDTH = 32


def config(family: str):
    return CONFIGS[family](
        vocab_size=61,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


@functools.cache
def _frozen(family: str) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config(family)).eval()


def model(family: str = "llama", adapter: str | None = None, trained: bool = True) -> PreTrainedModel:
    """A model with the same weights at each call, its adapters far from their start if ``trained``."""
    copy = AutoModelForCausalLM.from_config(config(family)).eval()
    copy.load_state_dict(_frozen(family).state_dict())
    if adapter is not None:
        attach(copy, (ADAPTERS | GROUPED | ROUTED)[adapter])
        if trained:
            randomize(copy)
    return copy


def randomize(adapted: torch.nn.Module, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in adapter_parameters(adapted):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


class Int8Linear(nn.Linear):
    """A linear layer quantised as bitsandbytes does it: without a bias, no parameter of it is floating."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantise(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the linear layers of a language model in place, but for its head."""
    for module in list(model.get_decoder().modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return model


def ids(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randint(3, 61, shape, generator=torch.Generator().manual_seed(seed))
