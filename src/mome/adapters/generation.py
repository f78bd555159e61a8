"""A context for forward passes that other code calls, such as ``generate``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mome.adapters.context import CONTEXT_KEY, AdapterContext, AdapterSlot
from mome.adapters.layers import decoder_layers


class _Blocks(threading.local):
    """The ``use_context`` blocks that a thread has entered: first layers' slots with contexts, innermost last."""

    entered: tuple[tuple[AdapterSlot | None, AdapterContext], ...] = ()


_BLOCKS = _Blocks()


@contextmanager
def use_context(model: nn.Module, context: AdapterContext) -> Iterator[AdapterContext]:
    """Give ``context`` to every forward pass of ``model`` in the ``with`` block that is given no other.

    This is for ``model.generate``, which refuses arguments that the model's ``forward`` does not name. The beams of a
    sequence are in its group. Leave ``token_mask`` out: decoding steps have other lengths. The block counts for this
    thread only. It does nothing for a model without adapters.

    Args:
        model: a causal language model.
        context: context of the forward passes.

    Raises:
        MomeError: the model has no decoder layers.
    """
    before = _BLOCKS.entered
    _BLOCKS.entered = (*before, (_slot(decoder_layers(model)), context))
    try:
        yield context
    finally:
        _BLOCKS.entered = before


def enter_decoder(
    decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Pre-hook of a decoder with adapters: pass on the context of the innermost block unless another one is given."""
    slot = _slot(decoder.layers)
    given = next((context for owner, context in reversed(_BLOCKS.entered) if owner is slot), None)
    return None if given is None else (args, {CONTEXT_KEY: given, **kwargs})


def _slot(layers: Any) -> AdapterSlot | None:
    """The slot of the first layer, which a view of the model shares with it, and a copy does not."""
    return getattr(layers[0], "adapter_slot", None)
