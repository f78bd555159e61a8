"""How probable a transcript is to the language model, and which of the clip's tokens it was read from.

One pass by teacher forcing over what was written, whatever decoding wrote it. What the attention looks at is recorded
from the pass's own calls, so the language model's implementation of attention stays as it is.

Shape notation: B clips, L positions before the transcript, S transcript tokens, T tokens of a clip, N heads of all
layers, V vocabulary, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mome.model.model import MomeForSpeechRecognition
from mome.model.sequence import LanguageInputs


@dataclass(frozen=True)
class Scores:
    """What a pass over the transcripts of B clips says.

    Attributes:
        logprobs: ``(B, S)`` float32, the natural logarithm of each token's probability, by the logits as they are:
            no option of decoding changes it.
        attention: for each clip ``(N, S, T)`` float32: the part of a head's attention to the clip's tokens that each
            of them has when token s is predicted. N is 0 if the language model's attention cannot be recorded, as in
            flash attention.
    """

    logprobs: Tensor
    attention: list[Tensor]


@torch.no_grad()
def score(
    model: MomeForSpeechRecognition,
    prepared: LanguageInputs,
    ids: Tensor,
    places: Sequence[slice],
    active_experts: int | None = None,
) -> Scores:
    """Score transcripts by one pass of the language model.

    Args:
        model: the model.
        prepared: the language model's input for B clips.
        ids: ``(B, S)`` what it wrote, end tokens and the padding after them included.
        places: for each clip, where T of its tokens are, counted from the first of its sequence.
        active_experts: as for the model's ``generate``.
    """
    steps, longest = ids.shape[1], prepared.embeddings.shape[1]
    written = ids[:, :-1].to(prepared.embeddings.device)
    # What follows an end token is never looked at by what comes before it.
    after = prepared.positions[:, -1:] + 1 + torch.arange(steps - 1, device=written.device)
    mask = torch.cat([prepared.mask, torch.ones_like(written, dtype=torch.bool)], 1)
    context = model.adapter_context(prepared.rates, mask, active_experts)
    recorder = _Recorder(longest - 1)
    with recorder if any(place.stop > place.start for place in places) else nullcontext():
        logits = model.language_model(
            inputs_embeds=torch.cat([prepared.embeddings, model.get_input_embeddings()(written)], 1),
            attention_mask=mask.long(),
            position_ids=torch.cat([prepared.positions, after], 1),
            use_cache=False,
            logits_to_keep=steps,
            **({"adapter_context": context} if model.config.adapter is not None else {}),
        ).logits.float()
    chosen = logits.gather(-1, ids.to(logits.device)[..., None])[..., 0]
    firsts = (longest - prepared.mask.sum(1)).tolist()
    attention = [recorder.attention(row, first, places[row]) for row, first in enumerate(firsts)]
    return Scores((chosen - logits.logsumexp(-1)).cpu(), attention)


class _Recorder(TorchFunctionMode):
    """Keeps how the last positions score all others, from the calls that compute attention in this thread.

    Attention is a softmax over scores ``(B, heads, positions, positions)``, in one call or by itself. Its mask is left
    out: all tokens of a clip come before the positions that are asked about.
    """

    def __init__(self, first: int):
        super().__init__()
        self.first = first  # position that predicts the first token of the transcript
        self.scores: list[Tensor] = []  # of each layer: (B, heads, S, L + S - 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key"), args, strict=False)) | kwargs
            query, key = given["query"][:, :, self.first :].float(), given["key"].float()
            key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            scale = given.get("scale") or query.shape[-1] ** -0.5
            self.scores.append(query @ key.transpose(2, 3) * scale)
        elif func is F.softmax and args[0].dim() == 4 and args[0].shape[2] == args[0].shape[3] > self.first:
            self.scores.append(args[0][:, :, self.first :].float())
        return func(*args, **kwargs)

    def attention(self, row: int, first: int, place: slice) -> Tensor:
        """``(N, S, T)``: a clip's attention to the tokens at ``place``, counted from its ``first`` position."""
        keys = slice(first + place.start, first + place.stop)
        parts = [scores[row, :, :, keys].softmax(-1) for scores in self.scores]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, 0, place.stop - place.start)
