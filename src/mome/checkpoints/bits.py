"""Fewer bits for the weights of a language model: 8 by PyTorch on a processor, 8 and 4 by bitsandbytes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
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


def _linear_layers(language_model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers, those of adapters excepted."""
    adapters: set[Any] = {part for _, adapter in adapter_modules(language_model) for part in adapter.modules()}
    for module in language_model.modules():
        if type(module) is nn.Linear and module not in adapters:
            yield module


def keep_gradients(language_model: nn.Module) -> None:
    """Let a language model in 4 bits be trained through.

    On some processors bitsandbytes packs a layer's weights anew in a pass without gradients, and then later passes have
    none either, without a word.
    """
    for module in language_model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


class RoundedLinear(nn.Linear):
    """A linear layer with weights in bfloat16, among others in float32.

    Attributes:
        weight: ``(out_features, in_features)`` bfloat16.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``, under autocast what any linear layer gives there."""
        output = F.linear(input.to(self.weight.dtype), self.weight, self.bias)
        return output if torch.is_autocast_enabled(input.device.type) else output.to(input.dtype)


def round_weights(language_model: nn.Module) -> None:
    """Make every linear layer a :class:`RoundedLinear`, in place.

    Those of adapters are excepted, and so is a head that shares its weights with the embedding.
    """
    embedding = language_model.get_input_embeddings().weight  # type: ignore[operator]
    for module in [*_linear_layers(language_model)]:
        if module.weight is not embedding:
            module.__class__ = RoundedLinear  # hooks and what is inside stay
            for value in module.parameters(recurse=False):
                value.data = value.data.bfloat16()


@torch.no_grad()
def quantize(language_model: nn.Module) -> None:
    """Make every linear layer an :class:`EightBitLinear`, in place, those of adapters excepted.

    A head that shares its weights with the embedding gets weights of its own.
    """
    for module in [*_linear_layers(language_model)]:
        weight = module.weight.float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * _MOST) / _MOST
        del module.weight
        module.__class__ = EightBitLinear  # hooks and what is inside stay
        module.register_buffer("weight", (weight.t() / scale).round_().to(torch.int8).t())
        module.register_buffer("scale", scale)
    # The file of the weights may be mapped to memory, all of it as long as one tensor is a part of it.
    for parameter in language_model.parameters():
        parameter.data = parameter.data.clone()
