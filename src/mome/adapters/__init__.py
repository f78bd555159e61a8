"""Adapters for frozen language models: MoME expert banks and LoRA, attached to any Hugging Face decoder."""

from mome.adapters.attach import attach, attach_lora
from mome.adapters.config import (
    PLACEMENTS,
    AdapterConfig,
    LoraAdapterConfig,
    MomeAdapterConfig,
    Placement,
    adapter_config_from_dict,
    adapter_config_to_dict,
)
from mome.adapters.context import AdapterContext, load_balancing_loss
from mome.adapters.counting import ParameterCount, count_adapter_parameters
from mome.adapters.experts import ExpertBank
from mome.adapters.export import export_peft
from mome.adapters.generation import use_context
from mome.adapters.inventory import (
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    load_adapter_state_dict,
    set_top_k,
)
from mome.adapters.layers import decoder_layers
from mome.adapters.lora import ScaleLora, SpecificLora
from mome.adapters.merge import merge
from mome.routing import RouterStatistics, router_statistics

__all__ = [
    "PLACEMENTS",
    "AdapterConfig",
    "AdapterContext",
    "ExpertBank",
    "LoraAdapterConfig",
    "MomeAdapterConfig",
    "ParameterCount",
    "Placement",
    "RouterStatistics",
    "ScaleLora",
    "SpecificLora",
    "adapter_config_from_dict",
    "adapter_config_to_dict",
    "adapter_modules",
    "adapter_parameters",
    "adapter_state_dict",
    "attach",
    "attach_lora",
    "count_adapter_parameters",
    "decoder_layers",
    "export_peft",
    "load_adapter_state_dict",
    "load_balancing_loss",
    "merge",
    "router_statistics",
    "set_top_k",
    "use_context",
]
