"""The language models that there are, and the sizes that their cost is counted from."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Products:
    """Weights that take part in matrix products.

    Attributes:
        per_token: of all layers, once for each token.
        per_position: of one layer, once for each position that a pass attends to (Doge's mask; 0 elsewhere).
        head: once for each token to be predicted.
    """

    per_token: int
    per_position: int
    head: int


_counted: dict[str, Products] = {}
_counting = threading.Lock()


def count_products(config: PreTrainedConfig) -> Products:
    """Count the products of the language model that ``config`` describes, without making its weights."""
    key = config.to_json_string(use_diff=False)
    with _counting:
        if key not in _counted:
            settings = copy.deepcopy(config)  # Transformers notes the precision in it
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(
                    settings, dtype=torch.get_default_dtype(), trust_remote_code=False
                )
            layers, head = config.num_hidden_layers, model.get_output_embeddings().weight.numel()
            linear = {name: m for name, m in model.get_decoder().named_modules() if isinstance(m, nn.Linear | Conv1D)}
            total = sum(module.weight.numel() for module in linear.values())
            repeated = sum(module.weight.numel() for name, module in linear.items() if name.endswith(".dt_proj"))
            _counted[key] = Products(total - repeated, repeated // layers, head)
        return _counted[key]
