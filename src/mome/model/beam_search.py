"""Beam search over what :mod:`mome.model.shared_prefix` computes: Transformers' result, but for rounding, in less time.

Options, logits processors and stopping criteria are prepared by Transformers' ``generate``, which calls this search in
place of its own loop. What it does not cover is left to Transformers; :func:`generate` says what that is.

Shape notation: B clips, n beams, K candidates of a step, t tokens written so far, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from mome.config.generation import NAMES
from mome.model.sequence import LanguageInputs
from mome.model.shared_prefix import Beams, shares_prefix, take, viewable

# Transcripts are what must not repeat: the prompt, which are embeddings here, need not be looked at.
warnings.filterwarnings("ignore", message="Passing `no_repeat_ngram_size` with `inputs_embeds`")

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
_LEAST = -1e9  # a score that none can have
_BLOCK = 64  # scores that are compared by their maximum first


def generate(language_model: Any, inputs: LanguageInputs, options: Mapping[str, Any]) -> Any:
    """Transformers' ``generate``, whose loop is this module's search where that gives the same.

    That is a beam search without sampling, by a language model that
    :func:`~mome.model.shared_prefix.shares_prefix` allows and that is neither compiled nor spread over devices, with
    options of :data:`~mome.config.generation.NAMES`, processors and criteria.

    Args:
        language_model: a causal language model.
        inputs: B clips.
        options: those of ``generate``.

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
        and viewable(language_model)
    )


@dataclass(frozen=True)
class _Hypotheses:
    """What k hypotheses of each clip wrote, the beams that each token came from, and scores: sums of log-probabilities.

    ``tokens`` and ``origins`` are ``(B, k, t)`` int64, ``scores`` ``(B, k)`` float32.
    """

    tokens: Tensor
    origins: Tensor
    scores: Tensor

    def take(self, chosen: Tensor) -> _Hypotheses:
        """Those that ``(B, k)`` indices name."""
        return _Hypotheses(*(take(part, chosen) for part in (self.tokens, self.origins, self.scores)))


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
    clips, count = len(inputs.embeddings), options.num_beams
    ends, penalty, early = options._eos_token_tensor, options.length_penalty, options.early_stopping
    padding = -1 if ends is None else int(options._pad_token_tensor or ends[0])
    candidates = count * max(2, 1 + (0 if ends is None else len(ends)))
    nothing, least = input_ids.view(clips, count, 0), torch.full((clips, count), _LEAST, device=device)
    beams = _Hypotheses(nothing, nothing, least.index_fill(1, nothing.new_zeros(1), 0))  # all alike at first
    finished = _Hypotheses(nothing, nothing, least)
    is_finished = torch.zeros_like(least, dtype=torch.bool)
    improvable = torch.ones(clips, 1, dtype=torch.bool, device=device)
    first = torch.arange(clips, device=device)[:, None] * count
    record = options.return_dict_in_generate
    all_scores: Any = () if record and options.output_scores else None
    all_logits: Any = () if record and options.output_logits else None
    passes = Beams(language_model, inputs, count)
    while True:
        logits = passes.logits.flatten(0, 1).float()
        scores = logits_processor(beams.tokens.flatten(0, 1), logits.log_softmax(-1))
        all_scores = None if all_scores is None else (*all_scores, scores)
        all_logits = None if all_logits is None else (*all_logits, logits)

        best, places = _top(scores.view(clips, count, -1), beams.scores, candidates)
        parents, written = places // scores.shape[-1], places % scores.shape[-1]
        tokens = torch.cat([take(beams.tokens, parents), written[..., None]], -1)
        origins = torch.cat([take(beams.origins, parents), (parents + first)[..., None]], -1)
        ended = stopping_criteria(tokens.flatten(0, 1), all_scores).view(clips, candidates)
        length = tokens.shape[-1]

        open_scores = best + ended * _LEAST
        chosen = open_scores.topk(count).indices
        beams = _Hypotheses(tokens, origins, open_scores).take(chosen)

        # A candidate that has ended joins the finished ones if it is among the n best of the step.
        joins = ended & (torch.arange(candidates, device=device) < count)
        closed = ~improvable | (is_finished.all(1, keepdim=True) & (early is True))
        final_scores = best / length**penalty + closed * _LEAST + ~joins * _LEAST
        finished = _Hypotheses(
            torch.cat([F.pad(finished.tokens, (0, 1), value=padding), tokens], 1),
            torch.cat([F.pad(finished.origins, (0, 1), value=-1), origins], 1),
            torch.cat([finished.scores, final_scores], 1),
        )
        order = finished.scores.topk(count).indices
        finished, is_finished = finished.take(order), take(torch.cat([is_finished, joins], 1), order)

        # A clip goes on while its best beam, at the length that suits it best, would beat the worst finished one.
        suiting = options.max_length if early == "never" and penalty > 0 else length
        worst = torch.where(is_finished, finished.scores.amin(1, keepdim=True), _LEAST)
        improvable = improvable & (beams.scores[:, :1] / suiting**penalty > worst).any(1, keepdim=True)
        if ~improvable.any() | ended.all() | (is_finished.all() & (early is True)):
            break
        passes.step(take(parents, chosen), beams.tokens[..., -1])

    returned = slice(options.num_return_sequences)
    origins = finished.origins[:, returned].flatten(0, 1)
    longest = int((origins >= 0).sum(1).max())
    sequences = finished.tokens[:, returned, :longest].flatten(0, 1)
    if not record:
        return sequences
    output: dict[str, Any] = {"sequences": sequences, "beam_indices": origins[:, :longest].int(), "logits": all_logits}
    if options.output_scores:
        output |= {"sequences_scores": finished.scores[:, returned].flatten(), "scores": all_scores}
    return GenerateBeamDecoderOnlyOutput(**output)


def _top(scores: Tensor, before: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest sums of ``(B, n, V)`` and ``(B, n)`` scores, and their places in ``(B, n * V)``.

    Both are ``(B, count)``, in order.
    """
    clips, beams, vocabulary = scores.shape
    blocks = vocabulary // _BLOCK
    if vocabulary % _BLOCK or beams * blocks < 2 * count:
        return (scores + before[..., None]).flatten(1).topk(count)
    # The largest scores are in the blocks with the largest maxima: two small searches in place of a large one.
    maxima = scores.view(clips, beams, blocks, _BLOCK).amax(-1) + before[..., None]
    largest = maxima.flatten(1).topk(count, sorted=False).indices.sort().values
    places = (largest[..., None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).flatten(1)
    sums = scores.flatten(1).gather(1, places) + before.gather(1, places // vocabulary)
    best, order = sums.topk(count)
    return best, places.gather(1, order)
