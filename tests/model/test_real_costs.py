"""Operations of language models of published sizes, against PyTorch's own counter at the lengths asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from mome.model.cost import inference_cost
from mome.rates import Rates
from mome.text.transcript import Tokens
from tests.model.build import make_config

RATES, FED, NEW = Rates(4, 2), 257, 4


def sizes(width: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int, **more: Any) -> dict:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        **more,
    }


MODELS: dict[str, PreTrainedConfig] = {
    "Llama-3.2-1B": LlamaConfig(**sizes(2048, 8192, 16, 32, 8, 128256, head_dim=64, tie_word_embeddings=True)),
    "Llama-3.1-8B": LlamaConfig(**sizes(4096, 14336, 32, 32, 8, 128256)),
    "Qwen2.5-0.5B": Qwen2Config(**sizes(896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True)),
    "Qwen3-0.6B": Qwen3Config(**sizes(1024, 3072, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True)),
    "gemma-3-1b": Gemma3TextConfig(**sizes(1152, 6912, 26, 4, 1, 262144, head_dim=256, sliding_window=512)),
    "Mistral-7B-v0.3": MistralConfig(**sizes(4096, 14336, 32, 32, 8, 32768, sliding_window=None)),
    "Phi-3-mini-4k": Phi3Config(**sizes(3072, 8192, 32, 32, 32, 32064, sliding_window=2047)),
    "OLMo-2-1B": Olmo2Config(**sizes(2048, 8192, 16, 16, 16, 100352)),
    "gpt2": GPT2Config(),
    "pythia-410m": GPTNeoXConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        vocab_size=50304,
    ),
}


def counted(config: PreTrainedConfig) -> tuple[int, int]:
    """Reading FED positions with the head at the last one, and the NEW - 1 steps that follow, on the meta device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).eval()
        head, width = model.get_output_embeddings(), model.get_input_embeddings().embedding_dim
        cache, totals = DynamicCache(config=config), []
        for size in (FED, *[1] * (NEW - 1)):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                states = model.get_decoder()(inputs_embeds=torch.empty(1, size, width), past_key_values=cache)
                head(states.last_hidden_state[:, -1:])
            totals.append(counter.get_total_flops())
    return totals[0], sum(totals[1:])


@pytest.mark.parametrize("name", MODELS)
def test_operations_of_published_sizes(name):
    text = MODELS[name]
    config = make_config(adapter="none", text_config=text)
    cost = inference_cost(config, RATES, 500, 250, NEW, fed=Tokens(125, 125, FED - 250))
    reading, writing = counted(text)
    assert cost.prefill == pytest.approx(reading, rel=0.01)
    assert cost.decode == pytest.approx(writing, rel=0.01)
