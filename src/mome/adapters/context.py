"""Input and output of the adapters in one forward pass.

The context travels as the keyword argument ``adapter_context`` of the language model's ``forward``, never
through global state: gradient checkpointing runs parts of the model again during the backward pass, when
global state may already belong to another forward pass.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mome.errors import MomeError
from mome.routing import RouterStatistics

CONTEXT_KEY = "adapter_context"
NOT_REENTRANT = (
    "reentrant gradient checkpointing leaves the routers' load-balancing loss without a gradient: enable it with "
    '{"use_reentrant": False}'
)


class AdapterContext:
    """Input and output of the adapters in one forward pass; make a new one for every forward pass.

    It is no dataclass: FSDP would look for tensors in one, and hand every layer a copy whose statistics nobody sees.

    Attributes:
        token_mask: (B, T) bool, the positions that count for the routing statistics; a floating tensor
            weights the positions instead. None counts all.
        group: (B,) long, the group of each sequence, for adapters with parts for a rate, a task or the like; one
            number for the whole batch. If the model runs on k * B rows, as in a beam search, each k successive rows
            belong to one sequence.
        top_k: routed experts active for a token; None for each bank's own. A number in the context is safe while other
            threads run the same model.
        routing: output: statistics of the expert bank of each decoder layer, by layer index.
        observe: called by the expert bank of each decoder layer with the layer's index, each token's router
            probabilities (B, T, N_r) and its chosen experts (B, T, k), to look at what the statistics sum up.
    """

    def __init__(
        self,
        token_mask: Tensor | None = None,
        group: Tensor | int | None = None,
        top_k: int | None = None,
        observe: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.token_mask, self.group, self.top_k, self.observe = token_mask, group, top_k, observe
        self.routing: dict[int, RouterStatistics] = {}

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The groups as numbers, one for each sequence or one for all; copied from the device once.

        Raises:
            MomeError: ``group`` is neither a (B,) long tensor nor a number.
        """
        if isinstance(self.group, int):
            return (self.group,)
        group = self.group
        if not isinstance(group, Tensor) or group.dtype != torch.long or group.dim() != 1 or not len(group):
            raise MomeError(f"group = {group!r} is not possible: give a (B,) long tensor or a number")
        return tuple(group.tolist())

    def record(self, layer_index: int, statistics: RouterStatistics) -> None:
        """Keep ``statistics``, unless gradient checkpointing is only repeating a forward pass.

        The loss was computed from the first pass's entry; keeping the repetition's entry instead would hold all
        recomputed activations in memory until the end of the backward pass.

        Raises:
            MomeError: the first pass ran without gradients, so the load-balancing loss has none.
        """
        if not _in_backward():
            self.routing[layer_index] = statistics
        elif statistics.balance_loss.requires_grad and not self.routing[layer_index].balance_loss.requires_grad:
            raise MomeError(NOT_REENTRANT)


def load_balancing_loss(context: AdapterContext) -> Tensor:
    """Mean load-balancing loss over the decoder layers: a differentiable scalar, 1 at balance.

    See :class:`RouterStatistics` for the loss of one layer. MoME adds 0.01 times this to the transcript's
    loss.

    Raises:
        MomeError: the context holds no statistics.
    """
    if not context.routing:
        raise MomeError("no routing statistics: pass adapter_context to the forward of a model with a mome adapter")
    return torch.stack([entry.balance_loss for entry in context.routing.values()]).mean()


class AdapterSlot:
    """Holds the context of the forward pass that runs in a decoder layer; the layer's hooks fill and empty it.

    The layer, its self-attention and its adapters share one slot, also in a copy of the model. Each thread has its own
    place in the slot: a forward pass, and its repetition by gradient checkpointing, runs in one thread from the layer's
    first hook to its last.

    Attributes:
        layer_index: position of the decoder layer.
        hooks: the hooks that fill and empty this slot.
    """

    def __init__(self, layer_index: int) -> None:
        self.layer_index = layer_index
        self.hooks: list[RemovableHandle] = []
        self._running = threading.local()

    @property
    def context(self) -> AdapterContext | None:
        """The context of this thread's forward pass; None outside of one, and if none was given."""
        reference = getattr(self._running, "context", None)
        return None if reference is None else reference()

    @context.setter
    def context(self, context: AdapterContext | None) -> None:
        # A weak reference: the threads that compute gradients live on, and must not keep a repetition's context alive.
        self._running.context = None if context is None else weakref.ref(context)

    def enter(self, context: AdapterContext | None) -> None:
        """Begin a call of the layer, hooks and all, with this context."""
        self.context = context
        self._running.in_call = True

    def leave(self) -> None:
        """End it."""
        self.context = None
        self._running.__dict__.clear()

    def keep(self, x: Tensor, normalized: Tensor) -> None:
        """Keep what the layer's norm made of its input, for :meth:`take` in the same call.

        Gradient checkpointing may repeat the layer's ``forward`` alone: then nobody would take it.
        """
        if getattr(self._running, "in_call", False):
            self._running.normalized = x, normalized

    def take(self, x: Tensor) -> Tensor | None:
        """What the norm made of ``x``, if it was kept; it is kept no longer."""
        kept = self._running.__dict__.pop("normalized", None)
        return kept[1] if kept is not None and kept[0] is x else None

    def disconnect(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        # Thread-local data cannot be pickled; a copy starts without a context.
        return {name: value for name, value in self.__dict__.items() if name != "_running"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._running = threading.local()


def _in_backward() -> bool:
    """Whether this thread is inside a backward pass (the test that torch.utils.checkpoint makes too)."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
