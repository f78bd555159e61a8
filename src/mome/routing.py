"""How evenly a router spreads tokens over its experts: those of an adapter, or of a mixture of projectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class RouterStatistics:
    """Statistics of one router over the counted tokens of one forward pass.

    Attributes:
        balance_loss: scalar, differentiable: N_r * sum over experts e of f_e * P_e, where f_e is the share
            of the k * tokens assignments that went to expert e (so the f_e sum to 1) and P_e the mean
            router probability of e. It is 1 if the assignments or the probabilities are uniform, and N_r
            / k if the same k experts take everything. The form is that of the Switch Transformer (Fedus et al.,
            2022); dividing f by k keeps the balanced value at 1 for every k. Only P carries a gradient.
        load: (N_r,) the f_e, detached.
        probability: (N_r,) the P_e, detached.
        entropy: scalar, mean entropy of a token's router probabilities in nats, detached.
    """

    balance_loss: Tensor
    load: Tensor
    probability: Tensor
    entropy: Tensor


def router_statistics(probabilities: Tensor, chosen: Tensor, mask: Tensor | None = None) -> RouterStatistics:
    """Compute the statistics of one routing decision.

    Args:
        probabilities: (..., N_r) floating, the router's softmax.
        chosen: (..., k) long, experts of each token.
        mask: (...) bool, tokens that count, or floating weights of the tokens; None counts all. Without a counted
            token all statistics are 0.

    Returns:
        Statistics in the dtype of ``probabilities``.

    Raises:
        ValueError: the mask's shape is not that of the tokens.
    """
    tokens = probabilities.shape[:-1]
    if mask is not None and mask.shape != tokens:
        raise ValueError(f"token_mask has shape {tuple(mask.shape)}, the tokens have {tuple(tokens)}")
    experts, k = probabilities.shape[-1], chosen.shape[-1]
    flat = probabilities.reshape(-1, experts)
    if mask is None:
        weights = flat.new_ones(flat.shape[0])
    else:
        weights = mask.reshape(-1).to(device=flat.device, dtype=flat.dtype)
    weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)

    load = flat.new_zeros(experts).index_add(
        0, chosen.reshape(-1), (weights / k).unsqueeze(-1).expand(-1, k).reshape(-1)
    )
    probability = weights @ flat
    with torch.no_grad():
        entropy = weights @ torch.special.entr(flat).sum(dim=-1)
    return RouterStatistics(experts * (load @ probability), load, probability.detach(), entropy)


def mean_statistics(several: Sequence[RouterStatistics]) -> RouterStatistics:
    """Average one router's statistics over forward passes; the result is detached."""

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(statistics, name).detach() for statistics in several]).mean(0)

    return RouterStatistics(*(mean(field.name) for field in fields(RouterStatistics)))
