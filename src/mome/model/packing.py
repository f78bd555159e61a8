"""Several sequences of each clip that begin alike, in one pass of the language model that reads their beginning once.

Matryoshka training reads a clip at several rates. At one audio rate all its sequences begin with the start token and
the audio tokens: the trunk, which is followed by a branch for each sequence. The tokens of all clips are one row
without padding,

    [trunk of clip 1, of clip 2, … | branch 1 of clip 1, of clip 2, … | branch 2 of clip 1, …],

and a token has the position that it has in its own sequence. A trunk attends to itself, a branch to its trunk and to
itself. Everything else in a language model looks at one token at a time, so the result is that of separate sequences,
but for rounding.

Shape notation: B clips, T tokens of the row, L positions of a padded batch, H heads, E width of a head.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from mome.model.sequence import LanguageInputs
from mome.model.shared_prefix import view

_ATTENTION = "mome_packed"


@dataclass(frozen=True)
class Segment:
    """Queries of B clips with the keys that they attend to, for one call of attention; padded on the right.

    Attributes:
        queries: ``(B, Q)`` int64, their places in the row.
        keys: ``(B, K)`` int64, likewise.
        real: ``(N,)`` int64, which of the B * Q queries are tokens, clip after clip.
        mask: ``(B, 1, Q, K)``, added to the scores; ``None``: each query attends to the keys up to its own.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Packed:
    """The row that several sequences of B clips share.

    Attributes:
        embeddings: ``(1, T, width)``.
        positions: ``(1, T)`` int64, each token's place in its own sequence.
        places: for each of the batches that were packed, ``(B, L)`` int64: where in the row its tokens are; 0 for
            padding.
        segments: what attends to what; trunks, then each batch's branches.
    """

    embeddings: Tensor
    positions: Tensor
    places: list[Tensor]
    segments: list[Segment]


def pack(batches: Sequence[LanguageInputs], shared: Tensor) -> Packed:
    """Pack batches of the same B clips, whose sequences agree in their first tokens.

    Args:
        batches: at least one batch. The embeddings of the shared tokens are those of the first.
        shared: ``(B,)`` number of tokens at a clip's start that are the same in all batches. Each sequence must be
            longer.
    """
    trunks = [batch.mask & (batch.positions < shared[:, None]) for batch in batches]
    branches = [batch.mask & ~trunk for batch, trunk in zip(batches, trunks, strict=True)]
    parts = [(batches[0], trunks[0]), *zip(batches, branches, strict=True)]
    starts = [0, *itertools.accumulate(int(part.sum()) for _, part in parts)]
    rows = torch.arange(starts[-1], device=shared.device)
    places = []
    for trunk, branch, start, end in zip(trunks, branches, starts[1:-1], starts[2:], strict=True):
        own = torch.zeros(branch.shape, dtype=torch.long, device=shared.device)
        own[trunk], own[branch] = rows[: starts[1]], rows[start:end]
        places.append(own)
    embeddings = torch.cat([batch.embeddings[part] for batch, part in parts])[None]
    positions = torch.cat([batch.positions[part] for batch, part in parts])[None]
    before, known = _block(0, shared)
    segments = [Segment(before, before, known.flatten().nonzero()[:, 0], None)]
    for start, branch in zip(starts[1:-1], branches, strict=True):
        queries, real = _block(start, branch.sum(1))
        clips, longest = queries.shape
        causal = torch.ones(longest, longest, dtype=torch.bool, device=shared.device).tril()
        seen = torch.cat([known[:, None].expand(-1, longest, -1), causal.expand(clips, -1, -1)], 2)[:, None]
        mask = torch.zeros(seen.shape, dtype=embeddings.dtype, device=shared.device).masked_fill_(~seen, -torch.inf)
        segments.append(Segment(queries, torch.cat([before, queries], 1), real.flatten().nonzero()[:, 0], mask))
    return Packed(embeddings, positions, places, segments)


def _block(start: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, Q)`` places of the tokens of clips that follow one another from ``start``, and which of them are tokens."""
    steps = torch.arange(int(lengths.max()), device=lengths.device)
    real = steps < lengths[:, None]
    rows = start + lengths.cumsum(0)[:, None] - lengths[:, None] + steps
    return rows.where(real, start), real


def run_packed(language_model: Any, packed: Packed, **options: Any) -> Any:
    """The language model's output ``(1, T, …)`` for a row; ``options`` are further ones of its ``forward``."""
    config = copy.copy(language_model.config)
    config._attn_implementation = _ATTENTION
    return view(language_model, config)(
        inputs_embeds=packed.embeddings,
        position_ids=packed.positions,
        use_cache=False,
        segments=packed.segments,
        **options,
    )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    segments: Sequence[Segment],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a row, ``(1, H, T, E)`` queries, segment by segment: ``(1, T, H, E)``."""
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # (T, heads, E)
    outputs = []
    for segment in segments:
        wanted = (segment.queries, segment.keys, segment.keys)
        queries, keys, values = (
            part.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)
            for part, places in zip(rows, wanted, strict=True)
        )
        mask = segment.mask
        output = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1).index_select(0, segment.real))
    return torch.cat(outputs)[None], None


AttentionInterface.register(_ATTENTION, _attend)
