"""Fewer bits for the weights of a language model: 8 by PyTorch on a processor, 8 and 4 by bitsandbytes elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from mome.adapters import adapter_modules
from mome.errors import MomeError

Bits = Literal["int8", "int4"]

_MOST = 127  # of signed integers of 8 bits; without -128 they are symmetric
_NEEDED = ("bitsandbytes", "accelerate")


def quantization(bits: str, device: torch.device, dtype: torch.dtype | str) -> BitsAndBytesConfig | None:
    """How Transformers is to load a language model; ``None``: as always, for :func:`quantize` to follow.

    Args:
        bits: one of :data:`Bits`.
        device: where it will run.
        dtype: of its other weights, in which it computes.

    Raises:
        MomeError: packages are missing, or this processor's products of integers are not exact.
        ValueError: ``bits`` is something else.
    """
    if bits not in get_args(Bits):
        raise ValueError(f"language_model_dtype={bits!r} is not supported: give one of {', '.join(get_args(Bits))}")
    if bits == "int8" and device.type == "cpu":
        _check_products()
        return None
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        where = "" if bits == "int4" else f" on {device.type}"
        raise MomeError(f"{bits}{where} needs further packages: pip install {' '.join(missing)}")
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    computed = None if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed)


def _check_products() -> None:
    """Raise :class:`MomeError` if sums of pairs of products are cut to 16 bits, as some processors' fast ones are."""
    ones = torch.full((16, 64), _MOST, dtype=torch.int8)
    if (torch._int_mm(ones, ones.t()) != 64 * _MOST**2).any():
        raise MomeError("int8 is not exact on this processor: give bfloat16 or float32")


class EightBitLinear(nn.Linear):
    """A linear layer in integers of 8 bits, for inference on a processor.

    Each output's weights share a scale, and so does each input vector, whose scale is found as it arrives: what
    becomes of it does not depend on the others. Products and sums of integers are exact.

    Attributes:
        weight: ``(out_features, in_features)`` int8, stored by columns.
        scale: ``(out_features,)`` float32.
    """

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``, in the dtype of the input."""
        if input.requires_grad and torch.is_grad_enabled():
            raise ValueError("weights of 8 bits have no gradient: load the language model in float32 or bfloat16")
        rows = input.flatten(0, -2).float()
        scale = rows.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * _MOST) / _MOST
        sums: Tensor = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight.t())
        output: Tensor = sums.float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            output += self.bias
        return output.to(input.dtype).view(*input.shape[:-1], -1)


@torch.no_grad()
def quantize(language_model: nn.Module) -> None:
    """Make every linear layer an :class:`EightBitLinear`, in place, those of adapters excepted.

    A head that shares its weights with the embedding gets weights of its own.
    """
    adapters: set[Any] = {part for _, adapter in adapter_modules(language_model) for part in adapter.modules()}
    for module in language_model.modules():
        if type(module) is not nn.Linear or module in adapters:
            continue
        weight = module.weight.float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * _MOST) / _MOST
        del module.weight
        module.__class__ = EightBitLinear  # hooks and what is inside stay
        module.register_buffer("weight", (weight.t() / scale).round_().to(torch.int8).t())
        module.register_buffer("scale", scale)
    # The file of the weights may be mapped to memory, all of it as long as one tensor is a part of it.
    for parameter in language_model.parameters():
        parameter.data = parameter.data.clone()
