"""Merge the LoRA of one group into the frozen weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from mome.adapters.attach import take_off
from mome.adapters.inventory import adapter_modules
from mome.adapters.lora import Lora
from mome.errors import MomeError

Model = TypeVar("Model", bound=nn.Module)

_MERGEABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def lora_modules(model: nn.Module) -> list[tuple[str, nn.Linear, Lora]]:
    """List every linear layer of ``model`` that has a LoRA: its name, its module, and the LoRA.

    Raises:
        MomeError: the model has no LoRA, or an adapter that is no matrix update, as experts.
    """
    found = []
    for name, module in adapter_modules(model):
        target, _, kind = name.rpartition(".")
        if not isinstance(module, Lora):
            raise MomeError(f"a {kind} adapter makes no low-rank update of a weight: only lora can do this")
        linear = model.get_submodule(target)
        assert isinstance(linear, nn.Linear)
        found.append((target, linear, module))
    if not found:
        raise MomeError("no lora adapter is attached to this model")
    return found


@torch.no_grad()
def merge(model: Model, group: int | None = None) -> Model:
    """Add the LoRA of one group to the frozen weights, in place, and remove all adapters and their hooks.

    The result is a plain model that computes what the adapted one computed for that group, at no extra cost. The sum is
    computed in float32 (float64 for float64 weights) and rounded once to the weights' dtype.

    Args:
        model: a model with a ``lora`` adapter and no ``mome`` adapter.
        group: the group of a LoRA with a specific part; None for one without.

    Returns:
        ``model`` itself.

    Raises:
        MomeError: the model has no LoRA or has experts, the group is missing, superfluous or out of range, or
            a weight is quantised. The model is unchanged then.
    """
    modules = lora_modules(model)
    updates = []
    for name, linear, lora in modules:
        weight = linear.weight
        # Some quantised weights have a floating dtype, and differ from others by their class alone.
        if weight.dtype not in _MERGEABLE or type(weight.data) is not Tensor:
            raise MomeError(f"{name}.weight is quantised and cannot be merged into: load the model unquantised")
        down, up = lora.matrices(group)
        precision = torch.promote_types(weight.dtype, torch.float32)
        updates.append((weight.to(precision) + lora.scale * (up.to(precision) @ down.to(precision))).to(weight.dtype))
    for (_, linear, _), merged in zip(modules, updates, strict=True):
        linear.weight.copy_(merged)
    take_off(model)
    return model
