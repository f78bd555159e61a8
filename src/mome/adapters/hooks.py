"""The hooks that connect adapters to a decoder layer.

They are plain functions that find their adapter on the module they are called with. A closure over the
adapter would survive ``copy.deepcopy`` as a reference to the original's weights, and could not be pickled.

The context reaches a layer's adapters by two ways that both end in the layer's slot. The layer's own hook
puts it there before the layer runs. Gradient checkpointing may repeat the layer's ``forward`` without the
layer's hooks, so the self-attention, which receives the layer's extra keyword arguments and runs first,
puts it there again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mome.adapters.context import CONTEXT_KEY, NOT_REENTRANT, AdapterContext, AdapterSlot
from mome.adapters.experts import ExpertBank
from mome.adapters.layers import hidden_states
from mome.adapters.lora import ScaleLora
from mome.errors import MomeError


def enter_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Pre-hook of a decoder layer: take note of the context, or of its absence."""
    _slot(layer).context = kwargs.get(CONTEXT_KEY)


def leave_layer(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Hook of a decoder layer, the last: let go of the context."""
    _slot(layer).context = None


def refuse_reentrant(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Pre-hook of a decoder layer with a bank inside: its first pass must not run without gradients."""
    checkpointing = getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled()
    if checkpointing and getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
        raise MomeError(NOT_REENTRANT)


def enter_attention(
    attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook of a self-attention: take the context from its arguments; attention kernels do not know it."""
    kwargs = dict(kwargs)
    _slot(attention).context = kwargs.pop(CONTEXT_KEY, None)
    return args, kwargs


def add_layer_bank(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a decoder layer: add the experts' output for the layer's input."""
    x, context = hidden_states(args, kwargs), kwargs.get(CONTEXT_KEY)
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        # This hook runs outside the layer's own checkpoint, so the bank's activations need one of theirs.
        added = checkpoint(_layer_bank, layer, x, context, use_reentrant=False, preserve_rng_state=False)
    else:
        added = _layer_bank(layer, x, context)
    return _add(output, added)


def add_attention_bank(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a self-attention: add the experts' output for its input, which is normalised already."""
    return _add(output, _bank(attention)(hidden_states(args, kwargs)))


def add_ffn_bank(ffn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a feed-forward part: add the experts' output for its input, which is normalised already."""
    return _add(output, _bank(ffn)(hidden_states(args, kwargs, "x")))


def add_lora(linear: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Hook of a linear layer: add the low-rank update."""
    lora = linear.lora
    assert isinstance(lora, ScaleLora)
    update: Tensor = lora(args[0])
    return output + update


def _layer_bank(layer: nn.Module, x: Tensor, context: AdapterContext | None) -> Tensor:
    bank = _bank(layer)
    _slot(layer).context = context
    if bank.config.normalize_input:
        norm = layer.input_layernorm
        assert isinstance(norm, nn.Module)
        x = norm(x)
    added: Tensor = bank(x)
    return added


def _bank(module: nn.Module) -> ExpertBank:
    bank = module.mome
    assert isinstance(bank, ExpertBank)
    return bank


def _slot(module: nn.Module) -> AdapterSlot:
    slot = module.adapter_slot
    assert isinstance(slot, AdapterSlot)
    return slot


def _add(output: Any, added: Tensor) -> Any:
    """Add to a module's output tensor, the first member where the module returns a tuple."""
    if isinstance(output, tuple):
        return (output[0] + added, *output[1:])
    return output + added
