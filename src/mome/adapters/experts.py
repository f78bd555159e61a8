"""The MoME expert bank: a router and its small experts, evaluated densely with two matrix products.

Shape notation: d model width, r bottleneck, N_r routed and N_s shared experts, N = N_s + N_r, k active
experts.

Source: MoME ("Mixture of Matryoshka Experts for AVSR", NeurIPS 2025): the sum of the shared experts and of
the top-k routed experts weighted by their gates, every expert being W_up GELU(W_down x + b_down) + b_up.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mome.adapters.config import MomeAdapterConfig
from mome.adapters.context import AdapterContext, AdapterSlot
from mome.errors import MomeError
from mome.routing import router_statistics


class ExpertBank(nn.Module):
    """Routed and shared bottleneck experts over vectors of width d.

    All experts are computed for every token and the gates of those not chosen are zero. With bottlenecks
    this small that is far cheaper than gathering the chosen ones: router and all down-projections are one
    matrix product, all up-projections another. The result is that of the sparse sum.

    Experts are ordered shared first, then routed.

    Parameters (in the dtype given):
        inner_weight: (N_r + N * r, d), the router's rows, then the down-projections, expert after expert.
        inner_bias: (N * r,), the down-projections' biases; the router has none.
        outer_weight: (d, N * (r + 1)), the up-projections side by side, each followed by its bias as one more
            column, so that the gated biases need no product of their own.

    Attributes:
        top_k: active routed experts; may be changed between forward passes (elastic inference).
        slot: where the running forward pass's context is found, set by :func:`mome.adapters.attach`.
    """

    def __init__(
        self,
        width: int,
        config: MomeAdapterConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the bank of ``config`` for vectors of width ``width``; its output is zero at first."""
        super().__init__()
        self.width = width
        self.config = config
        self.slot: AdapterSlot | None = None
        self.experts = config.shared_experts + config.routed_experts
        self.top_k = config.top_k
        inner = self.experts * config.bottleneck
        self.inner_weight = nn.Parameter(torch.empty(config.routed_experts + inner, width, device=device, dtype=dtype))
        self.inner_bias = nn.Parameter(torch.empty(inner, device=device, dtype=dtype))
        outer = inner + self.experts
        self.outer_weight = nn.Parameter(torch.empty(width, outer, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Router and down-projections as ``nn.Linear`` draws them; up-projections zero, so is the output."""
        bound = 1 / math.sqrt(self.width)
        nn.init.uniform_(self.inner_weight, -bound, bound)
        nn.init.uniform_(self.inner_bias, -bound, bound)
        nn.init.zeros_(self.outer_weight)

    @property
    def top_k(self) -> int:
        """Active routed experts per token, from 1 to N_r."""
        return self._top_k

    @top_k.setter
    def top_k(self, value: int) -> None:
        if not 1 <= value <= self.config.routed_experts:
            raise MomeError(f"top_k = {value} is not possible: choose 1 to {self.config.routed_experts}")
        self._top_k = value

    @property
    def router_weight(self) -> Tensor:
        """(N_r, d), a view."""
        return self.inner_weight[: self.config.routed_experts]

    @property
    def down_weight(self) -> Tensor:
        """(N, r, d), a view."""
        return self.inner_weight[self.config.routed_experts :].view(self.experts, -1, self.width)

    @property
    def down_bias(self) -> Tensor:
        """(N, r), a view."""
        return self.inner_bias.view(self.experts, -1)

    @property
    def up_weight(self) -> Tensor:
        """(N, d, r), a view."""
        return self.outer_weight.view(self.width, self.experts, -1)[..., :-1].transpose(0, 1)

    @property
    def up_bias(self) -> Tensor:
        """(N, d), a view."""
        return self.outer_weight.view(self.width, self.experts, -1)[..., -1].t()

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gates of the routed experts.

        Args:
            logits: (..., N_r), floating.

        Returns:
            Gates (..., N_r), zero but for the top k; probabilities (..., N_r); chosen experts (..., k),
            long. The floating ones are float32, or float64 where the logits are.
        """
        # At least float32: in bfloat16 near-equal experts get equal probabilities.
        probabilities = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        kept, chosen = probabilities.topk(self.top_k, dim=-1, sorted=False)
        if self.config.renormalize:
            kept = kept / kept.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, chosen, kept), probabilities, chosen

    def forward(self, x: Tensor, context: AdapterContext | None = None) -> Tensor:
        """The experts' output for ``x``.

        Args:
            x: (..., d), floating; computed in the dtype of the parameters.
            context: where to record the routing statistics; by default the running forward pass's context.

        Returns:
            (..., d) in the dtype of ``x``.
        """
        if context is None and self.slot is not None:
            context = self.slot.context
        routed = self.config.routed_experts
        inner = F.linear(x.to(self.inner_weight.dtype), self.inner_weight, F.pad(self.inner_bias, (routed, 0)))
        gates, probabilities, chosen = self.route(inner[..., :routed])
        if context is not None:
            layer_index = 0 if self.slot is None else self.slot.layer_index
            context.record(layer_index, router_statistics(probabilities, chosen, context.token_mask))

        hidden = F.gelu(inner[..., routed:]).unflatten(-1, (self.experts, -1))
        gates = F.pad(gates, (self.config.shared_experts, 0), value=1.0).to(hidden.dtype)
        # A hidden unit that is always 1 meets the column of the up-projection's bias.
        hidden = F.pad(hidden, (0, 1), value=1.0) * gates.unsqueeze(-1)
        return F.linear(hidden.flatten(-2), self.outer_weight).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"{self.width}, routed={self.config.routed_experts}, shared={self.config.shared_experts}, "
            f"top_k={self.top_k}, bottleneck={self.config.bottleneck}"
        )
