"""A language model's passes in a search whose n beams share the keys and values of what comes before the transcript.

A clip is read once. Each step puts the keys and values of all its beams' new tokens, as further columns, beside those
of the clip, and a mask says which columns belong to a beam's own past. So nothing moves when a beam follows another
one; columns that no beam follows any more are dropped now and then. The beams of a clip are the positions of its row,
so the adapters see B rows in each pass.

Shape notation: B clips, n beams, C columns, V vocabulary, H heads of queries, G of them for each head of keys, E width
of a head.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from mome.model.linear import OneDnnLinear
from mome.model.sequence import LanguageInputs

LANGUAGE_MODELS = frozenset(
    {"arcee", "gemma", "granite", "helium", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}
)
"""Types of language models whose attention is plain and computed through Transformers' interface, as tests show."""

_ATTENTION = "mome_shared_prefix"
_ROOM = 8  # steps whose columns fit into the memory before it is looked for columns to drop


def shares_prefix(config: PreTrainedConfig) -> bool:
    """Whether beams of this language model can share their prefix.

    They can with :data:`LANGUAGE_MODELS` that have no attention windows, and no positions that depend on the length.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.model_type in LANGUAGE_MODELS
        and rope in ("default", "linear", "llama3", "yarn")
        and not any(DynamicCache(config=config).is_sliding)
    )


class Beams:
    """The passes of a language model over B clips and what n beams of each write.

    Attributes:
        logits: ``(B, n, V)``, of the next token of each beam.
    """

    def __init__(self, language_model: Any, inputs: LanguageInputs, beams: int):
        """Read the clips."""
        self.config = copy.copy(language_model.config)
        self.view = view(language_model, self.config, onednn=True)
        self.positions = inputs.positions[:, -1:].expand(-1, beams)
        output = self.view(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.mask.long(),
            position_ids=inputs.positions,
            past_key_values=DynamicCache(config=self.config),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = SharedCache(output.past_key_values, inputs.mask, beams)
        self.logits: Tensor = output.logits.expand(-1, beams, -1)
        self.config._attn_implementation = _ATTENTION

    def step(self, parents: Tensor, tokens: Tensor) -> None:
        """Let each beam go on from the one that ``parents`` names, with a token: both ``(B, n)`` int64."""
        self.cache.follow(parents)
        self.positions = self.positions + 1
        self.logits = self.view(
            input_ids=tokens,
            attention_mask=self.cache.mask(self.config.num_attention_heads, self.logits.dtype),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits


def take(values: Tensor, beams: Tensor) -> Tensor:
    """Those of ``(B, n, …)`` that ``(B, k)`` indices name: ``(B, k, …)``."""
    return values.take_along_dim(beams.view(*beams.shape, *[1] * (values.dim() - 2)), 1)


class Columns(DynamicLayer):
    """Keys and values of one layer.

    Attributes:
        memory: keys and values ``(B, C, heads, E)``, with room for more columns.
        used: number of columns.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int):
        """Begin with ``(B, heads, C, E)`` and room for ``room`` columns more."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.used = keys.shape[2]
        self.memory = [F.pad(part.transpose(1, 2), (0, 0, 0, 0, 0, room)) for part in (keys, values)]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add columns ``(B, heads, n, E)`` and return all of them."""
        start, self.used = self.used, self.used + key_states.shape[2]
        for part, new in zip(self.memory, (key_states, value_states), strict=True):
            part[:, start : self.used] = new.transpose(1, 2)
        self.keys, self.values = (part[:, : self.used].transpose(1, 2) for part in self.memory)
        return self.keys, self.values

    def keep(self, columns: Tensor, room: int) -> None:
        """Keep for each clip the columns that ``(B, k)`` indices name, and make room for more."""
        clips, most = self.memory[0].shape[:2]
        rows = (columns + torch.arange(clips, device=columns.device)[:, None] * most).flatten()
        for index, part in enumerate(self.memory):
            kept = part.flatten(0, 1).index_select(0, rows).unflatten(0, columns.shape)
            self.memory[index] = F.pad(kept, (0, 0, 0, 0, 0, room))
        self.used = columns.shape[1]


class SharedCache(Cache):
    """Keys and values of B clips and of what their beams wrote.

    Attributes:
        columns: those of each layer.
        seen: ``(B, n, C)`` bool, the columns that a beam reads.
    """

    def __init__(self, read: Cache, mask: Tensor, beams: int):
        """Begin with the clips' own columns, of which ``mask`` ``(B, C)`` names those that are not padding."""
        self.columns = [Columns(layer.keys, layer.values, _ROOM * beams) for layer in cast(Any, read.layers)]
        super().__init__(layers=[*self.columns])
        self.seen = mask[:, None].expand(-1, beams, -1)

    def follow(self, parents: Tensor) -> None:
        """Let each beam go on from the one that ``(B, n)`` indices name, and give it a column for its next token."""
        beams = parents.shape[1]
        self.seen = take(self.seen, parents)
        first = self.columns[0]
        if first.used + beams > first.memory[0].shape[1]:
            read = self.seen.any(1)
            kept = read.sort(dim=1, descending=True, stable=True).indices[:, : int(read.sum(-1).max())]
            self.seen = self.seen.gather(2, kept[:, None].expand(-1, beams, -1))
            for layer in self.columns:
                layer.keep(kept, _ROOM * beams)
        own = torch.eye(beams, dtype=torch.bool, device=parents.device)
        self.seen = torch.cat([self.seen, own.expand(len(parents), -1, -1)], -1)

    def mask(self, heads: int, dtype: torch.dtype) -> Tensor:
        """What attention with H ``heads`` adds to its scores, ``(B, 1, G * n, C)``: minus infinity where not read."""
        mask = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device).masked_fill_(~self.seen, -torch.inf)
        return mask.repeat(1, heads // self.columns[0].memory[0].shape[2], 1)[:, None]


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of ``(B, H, n, E)`` queries; those that share a head of keys are rows of it, so no key is copied."""
    clips, heads, beams, width = query.shape
    rows = query.reshape(clips, key.shape[1], -1, width)
    output = F.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(clips, heads, beams, -1).transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attend)


def view(module: nn.Module, config: PreTrainedConfig, *, onednn: bool = False) -> Any:
    """A module with the same weights and hooks as ``module``, but another configuration.

    What computes attention is an entry of the configuration, and changing that of the model itself would change what
    other threads compute with it meanwhile. With ``onednn``, linear layers are :class:`OneDnnLinear`.
    """
    made: Any = copy.copy(module)
    parts = module._modules.items()
    made._modules = {name: part if part is None else view(part, config, onednn=onednn) for name, part in parts}
    if isinstance(getattr(module, "config", None), PreTrainedConfig):
        made.config = config
    if onednn and type(module) is nn.Linear and torch.backends.mkldnn.is_available():
        made.__class__ = OneDnnLinear
    return made


def viewable(language_model: nn.Module) -> bool:
    """Whether a :func:`view` is the model: parts on several devices, and compiled ones, have a forward of their own."""
    return not any({"forward", "_compiled_call_impl"} & vars(module).keys() for module in language_model.modules())
