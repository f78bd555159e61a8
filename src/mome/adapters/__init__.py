"""Adapters for frozen language models: MoME expert banks and LoRA, attached to any Hugging Face decoder.

Every module of this folder is imported, so that the adapters in it are known.
"""

import importlib
import pkgutil

from mome.adapters.attach import adapter_names, attach, detach, set_adapters
from mome.adapters.base import (
    ADAPTERS,
    Adapter,
    AdapterConfig,
    ParameterCount,
    adapter_config_from_dict,
    adapter_config_to_dict,
    is_adapter_key,
)
from mome.adapters.context import AdapterContext, load_balancing_loss
from mome.adapters.experts import PLACEMENTS, ExpertBank, MomeAdapterConfig, Placement, set_top_k
from mome.adapters.folder import load_adapter, push_adapter, save_adapter
from mome.adapters.generation import use_context
from mome.adapters.inventory import (
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    load_adapter_state_dict,
)
from mome.adapters.layers import decoder_layers
from mome.adapters.lora import Lora, LoraAdapterConfig, SpecificLora, attach_lora
from mome.adapters.merge import merge
from mome.adapters.trainer import AdapterTraining
from mome.routing import RouterStatistics, router_statistics

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ADAPTERS",
    "PLACEMENTS",
    "Adapter",
    "AdapterConfig",
    "AdapterContext",
    "AdapterTraining",
    "ExpertBank",
    "Lora",
    "LoraAdapterConfig",
    "MomeAdapterConfig",
    "ParameterCount",
    "Placement",
    "RouterStatistics",
    "SpecificLora",
    "adapter_config_from_dict",
    "adapter_config_to_dict",
    "adapter_modules",
    "adapter_names",
    "adapter_parameters",
    "adapter_state_dict",
    "attach",
    "attach_lora",
    "decoder_layers",
    "detach",
    "is_adapter_key",
    "load_adapter",
    "load_adapter_state_dict",
    "load_balancing_loss",
    "merge",
    "push_adapter",
    "router_statistics",
    "save_adapter",
    "set_adapters",
    "set_top_k",
    "use_context",
]
