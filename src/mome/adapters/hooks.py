"""The hooks that connect adapters to a decoder layer.

They are plain functions that find their adapter on the module that they are called with. A closure over the adapter
would still refer to the original's weights after ``copy.deepcopy``, and could not be pickled.

The context reaches a layer's adapters through the layer's slot, which is filled in two places. The layer's own hook
fills it before the layer runs. Gradient checkpointing may repeat the layer's ``forward`` without the layer's hooks, so
the self-attention, which runs first and receives the layer's extra keyword arguments, fills it again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mome.adapters.context import CONTEXT_KEY, NOT_REENTRANT, AdapterSlot
from mome.errors import MomeError


def enter_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Pre-hook of a decoder layer: put the context, or None, into the slot."""
    slot_of(layer).enter(kwargs.get(CONTEXT_KEY))


def leave_layer(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Last hook of a decoder layer: empty the slot."""
    slot_of(layer).leave()


def refuse_reentrant(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Pre-hook of a decoder layer with a bank inside: refuse to run its first pass without gradients."""
    checkpointing = getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled()
    if checkpointing and getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
        raise MomeError(NOT_REENTRANT)


def enter_attention(
    attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook of a self-attention: move the context from its arguments, which kernels do not know, to the slot."""
    kwargs = dict(kwargs)
    slot_of(attention).context = kwargs.pop(CONTEXT_KEY, None)
    return args, kwargs


def leave_norm(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    """Hook of a decoder layer's input norm: keep its output for adapters that read it too."""
    if len(args) == 1:
        slot_of(norm).keep(args[0], output)


def slot_of(module: nn.Module) -> AdapterSlot:
    """The slot of a decoder layer, of its self-attention or of its input norm."""
    slot = module.adapter_slot
    assert isinstance(slot, AdapterSlot)
    return slot


def add_to_output(output: Any, added: Tensor) -> Any:
    """Add to a module's output: a tensor, or a tuple whose first member is changed."""
    if isinstance(output, tuple):
        return (output[0] + added, *output[1:])
    return output + added


def connect(layer: nn.Module, index: int) -> AdapterSlot:
    """The layer's slot, which is made with its hooks on the first call.

    Args:
        layer: a decoder layer.
        index: its position, for the routing statistics.
    """
    slot = getattr(layer, "adapter_slot", None)
    if isinstance(slot, AdapterSlot):
        return slot
    slot = AdapterSlot(index)
    layer.adapter_slot = slot  # type: ignore[assignment]
    slot.hooks.append(layer.register_forward_pre_hook(enter_layer, with_kwargs=True))
    slot.hooks.append(layer.register_forward_hook(leave_layer))
    attention = getattr(layer, "self_attn", None)
    if isinstance(attention, nn.Module):
        attention.adapter_slot = slot  # type: ignore[assignment]
        slot.hooks.append(attention.register_forward_pre_hook(enter_attention, with_kwargs=True))
    return slot
