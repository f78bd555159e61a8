"""Beam search in which the beams of a clip share the keys and values of its tokens.

Transformers' own search reads the clip once for each beam and keeps as many copies of its keys and values. Here a clip
is read once. Each step puts the keys and values of all its beams' new tokens, as further columns, beside those of the
clip, and a mask says which columns belong to a beam's own past. So nothing moves when a beam follows another one;
columns that no beam follows any more are dropped now and then.

The search gives what Transformers' gives: the same hypotheses, order and scores, but for rounding. Options, logits
processors and stopping criteria are prepared by Transformers' ``generate``, which calls this search for its loop.

Shape notation: B clips, n beams, L positions before the transcript, t tokens written so far, C columns of the cache,
V vocabulary, H heads of queries, G of them for each head of keys, E width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from mome.config.generation import NAMES
from mome.model.sequence import LanguageInputs

LANGUAGE_MODELS = frozenset(
    {"arcee", "gemma", "granite", "helium", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}
)
"""Types of language models whose attention is plain and computed through Transformers' interface, as tests show."""

_OPTIONS = {
    *NAMES,
    "generation_config",
    "logits_processor",
    "num_return_sequences",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "stopping_criteria",
    "transformers_version",
    "_from_model_config",
}
_ATTENTION = "mome_beams"
_ROOM = 8  # steps whose columns fit into the cache before it is looked for columns to drop
_NO_SCORE = -1e9
_BLOCK = 64  # tokens of the vocabulary whose largest score is looked at first


def shares_prefix(config: PreTrainedConfig) -> bool:
    """Whether this module searches with a language model of this configuration.

    It does with :data:`LANGUAGE_MODELS` that have no attention windows, and no positions that depend on the length.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.model_type in LANGUAGE_MODELS
        and rope in ("default", "linear", "llama3", "yarn")
        and not any(DynamicCache(config=config).is_sliding)
    )


def generate(language_model: Any, inputs: LanguageInputs, options: Mapping[str, Any]) -> Any:
    """Transformers' ``generate``, whose loop is this module's search where that gives the same.

    That is a beam search without sampling, by a language model that :func:`shares_prefix` allows, on one device.

    Args:
        language_model: a causal language model.
        inputs: B clips.
        options: those of ``generate``; the result of :func:`~mome.config.generation.decoding_options`.

    Returns:
        As ``generate``: ids ``(B * sequences, S)`` int64 or an output object, which has no cache after this search.
    """
    given = {**options, "inputs_embeds": inputs.embeddings, "attention_mask": inputs.mask.long()}
    if _covers(language_model, options):
        # Transformers repeats its inputs for each beam: it gets the clips' lengths, and no values.
        given |= {"inputs_embeds": inputs.embeddings[..., :0], "custom_generate": partial(_search, inputs=inputs)}
    return language_model.generate(**given)


def _covers(language_model: Any, options: Mapping[str, Any]) -> bool:
    given: dict[str, Any] = {}
    for settings in (language_model.generation_config, options.get("generation_config")):
        given |= {} if settings is None else settings.to_diff_dict()
    given |= options
    return (
        given.get("num_beams", 1) > 1
        and not given.get("do_sample")
        and given.get("use_cache") is not False
        and {name for name, value in given.items() if value is not None and value is not False} <= _OPTIONS
        and shares_prefix(language_model.config)
        and language_model.config._attn_implementation in ("sdpa", "eager")
        and getattr(language_model, "hf_device_map", None) is None
    )


def _search(
    language_model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    *,
    inputs: LanguageInputs,
    **_: Any,
) -> Any:
    """The loop of a beam search, as ``generate`` calls it; ``input_ids`` ``(B * n, 0)`` are the tokens so far."""
    options, device = generation_config, input_ids.device
    clips, beams = len(inputs.embeddings), options.num_beams
    ends, padding = options._eos_token_tensor, options._pad_token_tensor
    fill = -1 if ends is None else int(padding or ends[0])
    kept = beams * max(2, 1 + (0 if ends is None else len(ends)))
    full = partial(torch.full, (clips, beams), device=device)
    # Tokens (B, n, t) of the beams, the beams that they came from, and the beams' scores; then those of finished ones.
    tokens = origins = done_tokens = done_origins = input_ids.view(clips, beams, 0)
    scores, done_scores, done = full(_NO_SCORE), full(_NO_SCORE), full(False)
    scores[:, 0] = 0  # the beams are alike at first
    improvable = torch.ones(clips, 1, dtype=torch.bool, device=device)
    first = torch.arange(clips, device=device)[:, None] * beams
    record = bool(options.return_dict_in_generate)
    all_scores: tuple[Tensor, ...] | None = () if record and options.output_scores else None
    all_logits: tuple[Tensor, ...] | None = () if record and options.output_logits else None

    config = copy.copy(language_model.config)
    view = _view(language_model, config)
    output = view(
        inputs_embeds=inputs.embeddings,
        attention_mask=inputs.mask.long(),
        position_ids=inputs.positions,
        past_key_values=DynamicCache(config=config),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = _SharedCache(output.past_key_values, inputs.mask, beams)
    logits = output.logits.expand(-1, beams, -1)
    config._attn_implementation = _ATTENTION
    position = inputs.positions[:, -1:].expand(-1, beams)
    while True:
        given = logits.flatten(0, 1).to(torch.float32, copy=True)
        logprobs = logits_processor(tokens.flatten(0, 1), given.log_softmax(-1))
        all_logits = None if all_logits is None else (*all_logits, given)
        all_scores = None if all_scores is None else (*all_scores, logprobs)
        vocabulary = logprobs.shape[-1]
        best, chosen = _top(logprobs.view(clips, beams, vocabulary) + scores[..., None], kept)
        parents, written = chosen // vocabulary, chosen % vocabulary
        new_tokens = torch.cat([_take(tokens, parents), written[..., None]], -1)
        new_origins = torch.cat([_take(origins, parents), (parents + first)[..., None]], -1)
        length = new_tokens.shape[-1]
        ended = stopping_criteria(new_tokens.flatten(0, 1), all_scores).view(clips, kept)

        running = best + ended * _NO_SCORE
        follow = running.topk(beams).indices
        tokens, origins, scores = (_take(old, follow) for old in (new_tokens, new_origins, running))

        # Candidates that have ended join the finished ones if they are among the n best of this step.
        ended_well = ended & (torch.arange(kept, device=device) < beams)
        closed = ~improvable | (done.all(1, keepdim=True) & (options.early_stopping is True))
        ended_scores = best / length**options.length_penalty + closed * _NO_SCORE + ~ended_well * _NO_SCORE
        done_scores, order = torch.cat([done_scores, ended_scores], 1).topk(beams)
        done = _take(torch.cat([done, ended_well], 1), order)
        done_tokens = _take(torch.cat([F.pad(done_tokens, (0, 1), value=fill), new_tokens], 1), order)
        done_origins = _take(torch.cat([F.pad(done_origins, (0, 1), value=-1), new_origins], 1), order)

        # A clip goes on while its best beam could, at the length that suits it best, beat the worst finished one.
        never = options.early_stopping == "never" and options.length_penalty > 0
        possible = scores[:, :1] / (options.max_length if never else length) ** options.length_penalty
        worst = torch.where(done, done_scores.amin(1, keepdim=True), _NO_SCORE)
        improvable = improvable & (possible > worst).any(1, keepdim=True)
        stopped = ~improvable.any() | ended.all() | (done.all() & (options.early_stopping is True))
        if stopped:
            break
        cache.follow(_take(parents, follow))
        position = position + 1
        logits = view(
            input_ids=tokens[..., -1],
            attention_mask=cache.mask(inputs.embeddings.dtype),
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).logits

    returned = slice(options.num_return_sequences)
    done_tokens, done_origins = (past[:, returned].flatten(0, 1) for past in (done_tokens, done_origins))
    longest = int((done_origins >= 0).sum(1).max())
    sequences = done_tokens[:, :longest]
    if not record:
        return sequences
    found: dict[str, Any] = {"sequences": sequences, "beam_indices": done_origins[:, :longest].int()}
    if options.output_scores:
        found |= {"sequences_scores": done_scores[:, returned].flatten(), "scores": all_scores}
    return GenerateBeamDecoderOnlyOutput(**found, logits=all_logits)


def _take(values: Tensor, beams: Tensor) -> Tensor:
    """``(B, k, …)``, the beams that ``(B, k)`` indices name."""
    return values.take_along_dim(beams.view(*beams.shape, *[1] * (values.dim() - 2)), 1)


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of ``(B, n, V)`` scores with their places in ``(B, n * V)``: both ``(B, count)``, in order."""
    scores = scores.flatten(1)
    blocks = scores.shape[1] // _BLOCK
    if scores.shape[1] % _BLOCK or blocks < 2 * count:
        return scores.topk(count)
    # The largest scores are in the blocks with the largest maxima: two small searches in place of a large one.
    places = scores.view(len(scores), blocks, _BLOCK).amax(-1).topk(count, sorted=False).indices.sort().values
    places = (places[..., None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).flatten(1)
    best, order = scores.gather(1, places).topk(count)
    return best, places.gather(1, order)


class _Columns(DynamicLayer):
    """Keys and values of one layer, ``(B, C, heads, E)`` in memory that has room for more columns."""

    def __init__(self, keys: Tensor, values: Tensor, room: int):
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


class _SharedCache(Cache):
    """Keys and values of B clips and of what their beams wrote.

    Attributes:
        columns: those of each layer.
        seen: ``(B, n, C)`` bool, the columns that a beam reads.
    """

    def __init__(self, read: Cache, mask: Tensor, beams: int):
        self.columns = [_Columns(layer.keys, layer.values, _ROOM * beams) for layer in cast(Any, read.layers)]
        super().__init__(layers=[*self.columns])
        self.seen = mask[:, None].expand(-1, beams, -1)

    def follow(self, parents: Tensor) -> None:
        """Let each beam go on from the one that ``(B, n)`` indices name, and give it a column for its next token."""
        beams = parents.shape[1]
        self.seen = _take(self.seen, parents)
        first = self.columns[0]
        if first.used + beams > first.memory[0].shape[1]:
            read = self.seen.any(1)
            columns = read.sort(dim=1, descending=True, stable=True).indices[:, : int(read.sum(-1).max())]
            self.seen = self.seen.gather(2, columns[:, None].expand(-1, beams, -1))
            for layer in self.columns:
                layer.keep(columns, _ROOM * beams)
        own = torch.eye(beams, dtype=torch.bool, device=parents.device)
        self.seen = torch.cat([self.seen, own.expand(len(parents), -1, -1)], -1)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """``(B, 1, n, C)``, 0 where a beam reads a column, minus infinity elsewhere."""
        mask = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        return mask.masked_fill_(~self.seen, -torch.inf)[:, None]


def _view(module: nn.Module, config: Any) -> Any:
    """A module of the language model with the same weights and hooks, but another configuration.

    What computes attention is an entry of the configuration, and changing that of the model itself would change what
    other threads compute with it meanwhile. Products in float32 on a CPU are left to oneDNN, which is faster than
    PyTorch's default there where rows are few.
    """
    view = copy.copy(module)
    view._modules = {name: part if part is None else _view(part, config) for name, part in module._modules.items()}
    if isinstance(getattr(module, "config", None), PreTrainedConfig):
        view.config = config
    if type(module) is nn.Linear and torch.backends.mkldnn.is_available():
        weight = module.weight
        if weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous():
            view.__class__ = _Linear
    return view


class _Linear(nn.Linear):
    """A linear layer computed by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` float32 on a CPU to ``(..., out_features)``."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of ``(B, H, n, E)`` queries; those that share a head of keys are rows of it, so no key is copied."""
    clips, heads, beams, width = query.shape
    groups = heads // key.shape[1]
    rows = query.reshape(clips, key.shape[1], groups * beams, width)
    mask = attention_mask.repeat(1, 1, groups, 1)
    output = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(clips, heads, beams, -1).transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attend)
