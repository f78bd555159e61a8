"""Linear layers that oneDNN computes, where and how it is faster than what PyTorch takes by default."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 8
_LARGE = 2**22  # weights, of which few rows too are faster
_FEW = 48  # rows of a product in bfloat16 whose first factor is the weights


class OneDnnLinear(nn.Linear):
    """A linear layer that leaves products on a processor to oneDNN in its best way, if nothing needs gradients.

    In float32, PyTorch leaves them to MKL, which takes up to 2.8 times as long for eight vectors and more. In bfloat16
    with AMX, oneDNN takes up to 1.5 times as long for a few vectors and large weights unless the weights are the first
    factor and the vectors the second (``results/benchmarks/xeon/linear.json`` has both). Vectors that lie apart in
    memory are one product too, where PyTorch makes several (``results/benchmarks/last_positions.json``). Everything
    else is as in ``nn.Linear``, whose weights these are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        weight = self.weight
        # PyTorch would copy frozen weights for each clip where the last vectors of clips come as a view of all.
        rows = input.reshape(-1, weight.shape[1])
        large, free = weight.numel() >= _LARGE, len(rows) > 0 and self._may_choose(input)
        if free and weight.dtype == torch.float32 and (large or len(rows) >= _ROWS):
            output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, self.bias, "none", [], "")
        elif free and weight.dtype == torch.bfloat16 and large and 1 < len(rows) <= _FEW and _has_amx():
            output = torch.mm(weight, rows.t()).t().contiguous()
            output = output if self.bias is None else output.add_(self.bias)
        else:
            output = F.linear(rows, weight, self.bias)
        return output.view(*input.shape[:-1], weight.shape[0])

    def _may_choose(self, input: Tensor) -> bool:
        """Whether it is a product of one dtype on a processor that nothing differentiates or compiles."""
        weight = self.weight
        return (
            input.dtype == weight.dtype
            and input.device.type == weight.device.type == "cpu"
            and weight.is_contiguous()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))
        )


@cache
def _has_amx() -> bool:
    """Whether the processor multiplies matrices in bfloat16 as such."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def leave_to_onednn(module: Any) -> None:
    """Make the linear layers inside a module :class:`OneDnnLinear`, in place: state, hooks and adapters stay."""
    if torch.backends.mkldnn.is_available():
        for part in module.modules():
            if type(part) is nn.Linear:
                part.__class__ = OneDnnLinear
