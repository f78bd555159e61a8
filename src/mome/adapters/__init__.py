"""Adapters for frozen language models: MoME expert banks and LoRA, attached to any Hugging Face decoder.

Every module of this folder is imported, so that the adapters in it are known.
"""

import importlib
import pkgutil

from mome.adapters.attach import attach
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
from mome.adapters.export import export_peft
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
from mome.routing import RouterStatistics, router_statistics

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ADAPTERS",
    "PLACEMENTS",
    "Adapter",
    "AdapterConfig",
    "AdapterContext",
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
    "adapter_parameters",
    "adapter_state_dict",
    "attach",
    "attach_lora",
    "decoder_layers",
    "export_peft",
    "is_adapter_key",
    "load_adapter_state_dict",
    "load_balancing_loss",
    "merge",
    "router_statistics",
    "set_top_k",
    "use_context",
]
