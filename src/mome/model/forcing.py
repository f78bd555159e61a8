"""The language model's passes by teacher forcing: one for each batch, or one for several batches that begin alike.

Shape notation: B clips, L positions, S transcript tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mome.adapters import AdapterContext, load_balancing_loss
from mome.adapters.inventory import sharded
from mome.model.decorrelation import decorrelation_loss
from mome.model.objective import IGNORED_LABEL
from mome.model.packing import pack, run_packed
from mome.model.sequence import LanguageInputs
from mome.model.shared_prefix import shares_prefix, viewable
from mome.routing import RouterStatistics, mean_statistics, router_statistics

if TYPE_CHECKING:
    from mome.model.model import MomeForSpeechRecognition

_LEAST_SHARED = 0.1
"""Share of the tokens that packing must save; with less, reading them twice is as quick."""


@dataclass(frozen=True)
class Forced:
    """What a pass gives.

    Attributes:
        logits: ``(B, S, V)``, which predict the labels; ``None`` where memory is spared, but for the last batch.
        losses: ``transcript``, the cross-entropy; ``load_balancing``, if there are routers; ``decorrelation``, if the
            model has a weight for it.
        routing: the adapters' router statistics by layer.
        gradient: zero, with the gradient of the weighted sum of the losses, which have none then; ``None``: the losses
            have their own.
    """

    logits: Tensor | None
    losses: dict[str, Tensor]
    routing: dict[int, RouterStatistics]
    gradient: Tensor | None = None


def force(
    model: MomeForSpeechRecognition,
    batches: Sequence[LanguageInputs],
    labels: Tensor,
    active_experts: int | None = None,
    factors: Sequence[Mapping[str, float]] | None = None,
) -> list[Forced]:
    """Run the language model on batches of the same B clips, those that begin alike together.

    Args:
        model: the recogniser.
        batches: the same clips with their transcripts, each batch at other rates.
        labels: ``(B, S)`` transcript ids, right-padded with -100.
        active_experts: as for the recogniser's ``forward``.
        factors: to spare memory, run each batch alone and compute its gradient at once, so that the activations of one
            batch at a time are kept: for each batch, the factors of its losses in the sum whose gradient is wanted.
    """
    # With left padding all sequences of a batch end together, so shorter transcripts start later.
    lengths, steps = (labels != IGNORED_LABEL).sum(1), torch.arange(labels.shape[1], device=labels.device)
    ends = [batch.mask.shape[1] for batch in batches]
    sources = [(steps + end - lengths[:, None]).clamp(max=end - 1) for end in ends]
    step = _Step(model, labels, active_experts)
    if factors is not None and torch.is_grad_enabled():
        last = [batch is batches[-1] for batch in batches]
        return [step.at_once(*each) for each in zip(batches, sources, factors, last, strict=True)]
    forced: dict[int, Forced] = {}
    for members in _alike(model, batches):
        chosen, wanted = [batches[index] for index in members], [sources[index] for index in members]
        results = [step.alone(chosen[0], wanted[0])] if len(chosen) == 1 else step.together(chosen, wanted)
        forced |= zip(members, results, strict=True)
    return [forced[index] for index in range(len(batches))]


def _alike(model: MomeForSpeechRecognition, batches: Sequence[LanguageInputs]) -> list[list[int]]:
    """The batches that go through the language model together, by their indices."""
    config, language_model = model.config, model.language_model
    packable = (
        not sharded(language_model)  # whose processes must make the same passes, whatever their clips save
        and config.connector_config.separate
        and shares_prefix(language_model.config)
        and language_model.config._attn_implementation == "sdpa"
        and viewable(language_model)
    )
    found: dict[Any, list[int]] = {}
    for index, batch in enumerate(batches):
        audio = {rates.audio for rates in batch.rates}
        group = model.adapter_context(batch.rates).group
        alone = not packable or len(audio) > 1 or None in audio or isinstance(group, Tensor)
        alone = alone or not config.text_ids(batch.rates[0].task)  # a branch must have a token
        found.setdefault(index if alone else (audio.pop(), group), []).append(index)
    groups = []
    for members in found.values():
        saved = (len(members) - 1) * int(shared_tokens(model, batches[members[0]]).sum())
        tokens = sum(int(batches[index].mask.sum()) for index in members)
        groups += [members] if saved > _LEAST_SHARED * tokens else [[index] for index in members]
    return groups


def shared_tokens(model: MomeForSpeechRecognition, batch: LanguageInputs) -> Tensor:
    """``(B,)`` tokens of each clip up to the end of its audio: the start token, the audio, the markers around it."""
    around = len(model.config.start_ids) + len(model.config.markers("audio"))
    return torch.tensor([around + count.audio for count in batch.counts], device=batch.mask.device)


@dataclass(frozen=True)
class _Step:
    """The passes of a step; a ``source`` ``(B, S)`` says which of a batch's positions predict the labels."""

    model: MomeForSpeechRecognition
    labels: Tensor
    active_experts: int | None

    def alone(self, batch: LanguageInputs, source: Tensor) -> Forced:
        """A pass of one batch."""
        context = self.model.adapter_context(batch.rates, batch.mask, self.active_experts)
        first = int(source.min())
        output = self.model.language_model(
            inputs_embeds=batch.embeddings,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=batch.mask.shape[1] - first,
            **self._options(context),
        )
        logits = output.logits
        logits = logits.gather(1, (source - first)[..., None].expand(-1, -1, logits.shape[-1]))
        return self._forced(batch, logits, context, output.hidden_states)

    def together(self, batches: list[LanguageInputs], sources: list[Tensor]) -> list[Forced]:
        """One pass of several batches; each gets the routers' statistics of its own tokens, as if it were alone."""
        packed = pack(batches, shared_tokens(self.model, batches[0]))
        contexts = [self.model.adapter_context(batch.rates, None, self.active_experts) for batch in batches]
        tokens = [place[batch.mask] for place, batch in zip(packed.places, batches, strict=True)]
        context = self.model.adapter_context(batches[0].rates, None, self.active_experts)
        context.observe = partial(_share_out, contexts, tokens)
        wanted = [place.gather(1, source) for place, source in zip(packed.places, sources, strict=True)]
        options = self._options(context)
        output = run_packed(self.model.language_model, packed, logits_to_keep=torch.stack(wanted).flatten(), **options)
        parts = output.logits[0].unflatten(0, (len(batches), *self.labels.shape))
        forced = []
        for batch, logits, own, place in zip(batches, parts, contexts, packed.places, strict=True):
            states = output.hidden_states and [layer[0][place] for layer in output.hidden_states]
            forced.append(self._forced(batch, logits, own, states))
        return forced

    def at_once(self, batch: LanguageInputs, source: Tensor, factors: Mapping[str, float], logits: bool) -> Forced:
        """A pass of one batch that keeps its gradient instead of its activations, and its ``logits`` if asked for."""
        trained = [value for value in self.model.language_model.parameters() if value.requires_grad]
        made: list[Forced] = []

        def total(embeddings: Tensor) -> Tensor:
            made.append(self.alone(replace(batch, embeddings=embeddings), source))
            return torch.stack([factors[name] * loss for name, loss in made[0].losses.items()]).sum()

        gradient: Tensor = _GradientAtOnce.apply(total, batch.embeddings, *trained)  # type: ignore[no-untyped-call]
        (forced,) = made
        losses = {name: loss.detach() for name, loss in forced.losses.items()}
        routing = {layer: mean_statistics([statistics]) for layer, statistics in forced.routing.items()}
        kept = forced.logits.detach() if logits and forced.logits is not None else None
        return Forced(kept, losses, routing, gradient)

    def _options(self, context: AdapterContext) -> dict[str, Any]:
        config = self.model.config
        return {
            "output_hidden_states": config.decorrelation_weight > 0,
            **({"adapter_context": context} if config.adapter is not None else {}),
        }

    def _forced(
        self, batch: LanguageInputs, logits: Tensor, context: AdapterContext, states: Sequence[Tensor] | None
    ) -> Forced:
        flat = logits.float().flatten(0, 1)
        losses = {"transcript": F.cross_entropy(flat, self.labels.flatten(), ignore_index=IGNORED_LABEL)}
        if context.routing:
            losses["load_balancing"] = load_balancing_loss(context)
        if states:  # the embeddings, and the output of each layer
            fed = torch.tensor([[count.total] for count in batch.counts], device=batch.mask.device)
            losses["decorrelation"] = decorrelation_loss(states[1:-1], batch.mask & (batch.positions < fed))
        return Forced(logits, losses, context.routing)


def _share_out(
    contexts: list[AdapterContext], tokens: list[Tensor], layer: int, probabilities: Tensor, chosen: Tensor
) -> None:
    """Record the routing of a row ``(1, T, …)`` in the context of each batch, which has the ``tokens`` of the row."""
    for context, own in zip(contexts, tokens, strict=True):
        context.record(layer, router_statistics(probabilities[0, own], chosen[0, own]))


class _GradientAtOnce(torch.autograd.Function):
    """Zero, with the gradient of a function that is computed, and whose activations are freed, in the forward pass."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], first: Tensor, *others: Tensor) -> Tensor:
        """``function`` of ``first``, which uses ``others`` too, gives a scalar."""
        with torch.enable_grad():
            own = first.detach().requires_grad_()
            total = function(own)
            gradients = torch.autograd.grad(total, (own, *others), allow_unused=True)
        ctx.save_for_backward(*gradients)
        return torch.zeros_like(total)

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient."""
        return None, *(None if value is None else value * factor.to(value.dtype) for value in ctx.saved_tensors)
