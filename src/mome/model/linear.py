"""Linear layers that oneDNN computes, where it is faster than what PyTorch takes by default."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 8
_LARGE = 2**22  # weights, of which few rows too are faster


class OneDnnLinear(nn.Linear):
    """A linear layer that leaves products in float32 on a processor to oneDNN, if nothing needs gradients.

    PyTorch leaves them to MKL, which on AMD's processors takes twice as long for eight vectors and more
    (``results/benchmarks/linear.json``). Vectors that lie apart in memory are one product too, where PyTorch makes
    several (``results/benchmarks/last_positions.json``). Everything else is as in ``nn.Linear``, whose weights these
    are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        weight = self.weight
        # PyTorch would copy frozen weights for each clip where the last vectors of clips come as a view of all.
        rows = input.reshape(-1, weight.shape[1])
        if (
            (len(rows) >= _ROWS or weight.numel() >= _LARGE)
            and len(rows) > 0
            and input.dtype == weight.dtype == torch.float32
            and input.device.type == weight.device.type == "cpu"
            and weight.is_contiguous()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))
        ):
            output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, self.bias, "none", [], "")
        else:
            output = F.linear(rows, weight, self.bias)
        return output.view(*input.shape[:-1], weight.shape[0])


def leave_to_onednn(module: Any) -> None:
    """Make the linear layers inside a module :class:`OneDnnLinear`, in place: state, hooks and adapters stay."""
    if torch.backends.mkldnn.is_available():
        for part in module.modules():
            if type(part) is nn.Linear:
                part.__class__ = OneDnnLinear
