"""The training loss: cross-entropy of the transcript at each rate, plus auxiliary losses of routers and connector.

Source: the Matryoshka objective of Llama-MTSK and MoME, the mean over the G * L pairs of rates of c_ij times L_LM, with
c_ij = 1 unless told otherwise, plus MoME's load-balancing loss times its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from mome.adapters import RouterStatistics
from mome.connectors import Connected
from mome.routing import mean_statistics

if TYPE_CHECKING:
    from mome.model.forcing import Forced

IGNORED_LABEL = -100


@dataclass
class SpeechOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: mean over the rates of the transcript's cross-entropy, plus ``balance_weight`` times the
            load-balancing loss, plus the connector's losses times their weights. While the connector is aligned, the
            mean of that loss instead of the cross-entropy.
        logits: ``(B, S, V)`` for the last of the rates; position s predicts label s. ``None`` if the language model
            was not run.
        transcript_losses: cross-entropy by rates, or the alignment's loss, detached, without the weights of
            tasks and rates.
        balance_loss: load-balancing loss, detached; 1 when all experts are used equally.
        connector_losses: the connector's auxiliary losses by name, and ``decorrelation`` and ``align`` if they have
            a weight; detached, without their weights.
        left_out: share of the clips without an alignment by rates, see :class:`~mome.model.alignment.Alignment`.
        routing: router statistics by decoder layer, averaged over the rates, detached.
        connector_routing: router statistics of the connector, see :class:`~mome.connectors.base.Connected`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    transcript_losses: dict[str, Tensor] | None = None
    balance_loss: Tensor | None = None
    connector_losses: dict[str, Tensor] | None = None
    left_out: dict[str, Tensor] | None = None
    routing: dict[int, RouterStatistics] | None = None
    connector_routing: dict[str, RouterStatistics] | None = None


@dataclass
class Objective:
    """Collects the losses of one step, rate by rate, and adds them up.

    Args:
        weights: factors of the auxiliary losses by name; ``load_balancing`` belongs to the adapters' routers.
    """

    weights: Mapping[str, float]
    _transcript: list[Tensor] = field(default_factory=list)
    _by_rates: dict[str, Tensor] = field(default_factory=dict)
    _balance: list[Tensor] = field(default_factory=list)
    _auxiliary: dict[str, list[Tensor]] = field(default_factory=dict)
    _left_out: dict[str, Tensor] = field(default_factory=dict)
    _gradients: list[Tensor] = field(default_factory=list)
    _routing: dict[int, list[RouterStatistics]] = field(default_factory=dict)
    _connector_routing: dict[str, list[RouterStatistics]] = field(default_factory=dict)

    def add_pass(self, name: str, forced: Forced, weight: float = 1.0) -> None:
        """Add the losses and the router statistics of one pass of the language model.

        Args:
            name: the rates, the key in ``transcript_losses``.
            forced: what the pass gave.
            weight: factor of the task and the rates; ``transcript_losses`` are without it.
        """
        losses = dict(forced.losses)
        transcript = losses.pop("transcript")
        self._transcript.append(transcript * weight)
        self._by_rates[name] = transcript.detach()
        if "load_balancing" in losses:
            self._balance.append(losses.pop("load_balancing"))
        for layer, statistics in forced.routing.items():
            self._routing.setdefault(layer, []).append(statistics)
        for other, value in losses.items():
            self.add(other, value)
        if forced.gradient is not None:
            self._gradients.append(forced.gradient)

    def add_alignment(self, name: str, loss: Tensor, left_out: Tensor, alone: bool) -> None:
        """Add the alignment's loss in a pass: ``alone``, or as the auxiliary loss ``align``."""
        if alone:
            self._transcript.append(loss)
            self._by_rates[name] = loss.detach()
        else:
            self.add("align", loss)
        self._left_out[name] = left_out

    def add_connector(self, connected: Connected) -> None:
        """Add the connector's losses in a pass, and the statistics of its routers."""
        for name, value in connected.losses.items():
            self.add(name, value)
        for router, statistics in connected.routing.items():
            self._connector_routing.setdefault(router, []).append(statistics)

    def add(self, name: str, value: Tensor) -> None:
        """Add an auxiliary loss; the losses of one name are averaged."""
        self._auxiliary.setdefault(name, []).append(value)

    def output(self, logits: Tensor | None) -> SpeechOutput:
        """The total loss with its terms, and ``logits`` as given."""
        total, balance = torch.stack(self._transcript).mean(), None
        if self._balance:
            balance = torch.stack(self._balance).mean()
            total = total + self.weights["load_balancing"] * balance
        auxiliary = {name: torch.stack(values).mean() for name, values in self._auxiliary.items()}
        for name, value in auxiliary.items():
            if name not in self.weights:
                raise ValueError(f"the loss '{name}' has no weight: give it one in the connector's loss_weights")
            total = total + self.weights[name] * value
        if self._gradients:
            total = total + torch.stack(self._gradients).mean()
        return SpeechOutput(
            total,
            logits,
            self._by_rates,
            None if balance is None else balance.detach(),
            {name: value.detach() for name, value in auxiliary.items()},
            self._left_out,
            {layer: mean_statistics(passes) for layer, passes in self._routing.items()},
            {router: mean_statistics(passes) for router, passes in self._connector_routing.items()},
        )
