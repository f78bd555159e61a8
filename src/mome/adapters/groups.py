"""Products with a matrix for each group of sequences, such as those of one rate or of one task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mome.adapters.context import AdapterContext
from mome.errors import MomeError


def check_groups(groups: tuple[int, ...], count: int, owner: str) -> None:
    """Raise :class:`MomeError` if one of ``groups`` is not from 0 to ``count`` - 1; ``owner`` is for the message."""
    for group in (min(groups), max(groups)):
        if not 0 <= group < count:
            raise MomeError(f"group = {group} does not exist: the {owner} has groups 0 to {count - 1}")


def group_linear(x: Tensor, weight: Tensor, context: AdapterContext | None, owner: str) -> Tensor:
    """Multiply each sequence by the matrix of its group.

    All matrices are slices of one parameter, so each backward pass gives all of them a gradient, zero for a group
    without a sequence. With a parameter per group, DistributedDataParallel would wait for the missing gradients
    without end.

    Args:
        x: (B, ..., in), or (B * ..., in) with the rows of a sequence side by side.
        weight: (n, out, in), in the dtype of ``x``.
        context: names the group of each sequence.
        owner: what has the groups, for messages.

    Returns:
        (B, ..., out), the shape of ``x`` but for the last dimension.

    Raises:
        MomeError: the context names no group, a group that does not exist, or another number of sequences.
    """
    if context is None or context.group is None:
        raise MomeError(
            f"this {owner} is specific to {len(weight)} groups: pass adapter_context=AdapterContext(group=...) to the "
            "model's forward, or run generate inside mome.adapters.use_context"
        )
    groups = context.groups
    check_groups(groups, len(weight), owner)
    if x.shape[0] % len(groups):
        raise MomeError(f"group names {len(groups)} sequences, the batch has {x.shape[0]}: give one for each")
    if len(set(groups)) == 1:
        return F.linear(x, weight[groups[0]])
    assert isinstance(context.group, Tensor)
    chosen = weight.index_select(0, context.group.to(x.device))
    # The rows of a sequence (its beams times its tokens) are adjacent, so each sequence is one matrix of bmm.
    return torch.bmm(x.reshape(len(groups), -1, x.shape[-1]), chosen.mT).view(*x.shape[:-1], -1)
