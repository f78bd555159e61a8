"""A context for forward passes that somebody else calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mome.adapters.context import CONTEXT_KEY, AdapterContext
from mome.adapters.layers import decoder_layers


class _Blocks(threading.local):
    """The blocks that a thread is inside: decoders with their contexts, innermost last."""

    entered: tuple[tuple[nn.Module, AdapterContext], ...] = ()


_BLOCKS = _Blocks()


@contextmanager
def use_context(model: nn.Module, context: AdapterContext) -> Iterator[AdapterContext]:
    """Inside the ``with`` block, every forward pass of ``model`` gets ``context`` unless it is given another.

    This is for ``model.generate``, which refuses arguments that the model's ``forward`` does not name. The
    context goes on as an argument from the decoder to its layers, as everywhere. Beams of a sequence are in
    its group. Leave ``token_mask`` out: decoding steps have other lengths. The block is this thread's
    own: what others run on the same model meanwhile does not see it. Without adapters on the
    model it does nothing.

    Args:
        model: a causal language model.
        context: what the passes are given.

    Raises:
        MomeError: the model has no decoder layers.
    """
    decoder_layers(model)
    before = _BLOCKS.entered
    _BLOCKS.entered = (*before, (model.get_decoder(), context))  # type: ignore[operator]
    try:
        yield context
    finally:
        _BLOCKS.entered = before


def enter_decoder(
    decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Pre-hook of a decoder with adapters: pass on the context of the block that it runs in, if it is given none."""
    given = next((context for owner, context in reversed(_BLOCKS.entered) if owner is decoder), None)
    return None if given is None else (args, {CONTEXT_KEY: given, **kwargs})
