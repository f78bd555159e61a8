"""Low-rank update of a frozen linear layer, shared by all rates (LoRA-MS).

Source: Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs"): the frozen layer's output plus s
times the output of a down- and an up-projection, both without bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mome.adapters.context import AdapterSlot


class ScaleLora(nn.Module):
    """scale * up(down(x)), to be added to a frozen linear layer's output; zero at first.

    Attributes:
        down: bias-free ``nn.Linear``, weight (bottleneck, in_features).
        up: bias-free ``nn.Linear``, weight (out_features, bottleneck).
        scale: fixed factor.
        slot: where the running forward pass's context is found, set by :func:`mome.adapters.attach`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bottleneck: int,
        scale: float = 1 / 8,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make an update of an ``in_features`` to ``out_features`` layer."""
        super().__init__()
        self.scale = scale
        self.slot: AdapterSlot | None = None
        self.down = nn.Linear(in_features, bottleneck, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(bottleneck, out_features, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Down-projection Kaiming-uniform, up-projection zero."""
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features) in the dtype of ``x``, computed in the parameters'."""
        # The factor on the narrow side: fewer products than on the output.
        return self.up(self.down(x.to(self.down.weight.dtype)) * self.scale).to(x.dtype)

    def extra_repr(self) -> str:
        """The factor, for ``print(model)``."""
        return f"scale={self.scale}"
