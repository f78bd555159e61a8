"""What training minimises: the transcript's loss at each rate, and the auxiliary losses of routers and connector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import ModelOutput

from mome.adapters import AdapterContext, RouterStatistics, load_balancing_loss
from mome.connectors import Connected
from mome.routing import mean_statistics

IGNORED_LABEL = -100


@dataclass
class SpeechOutput(ModelOutput):
    """What a forward pass returns.

    Attributes:
        loss: mean over the rates of the transcript's cross-entropy, plus ``balance_weight`` times the
            load-balancing loss, plus the connector's losses times their weights.
        logits: ``(B, S, V)`` that predict the labels at the same positions, for the last of the rates.
        transcript_losses: cross-entropy by rates, detached.
        balance_loss: load-balancing loss, detached; 1 when all experts are used alike.
        connector_losses: the connector's auxiliary losses by name, and ``decorrelation`` where it has a weight,
            detached and without their weights.
        routing: router statistics by decoder layer, detached, means over the rates.
        connector_routing: those of the connector's routers, see :class:`~mome.connectors.base.Connected`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    transcript_losses: dict[str, Tensor] | None = None
    balance_loss: Tensor | None = None
    connector_losses: dict[str, Tensor] | None = None
    routing: dict[int, RouterStatistics] | None = None
    connector_routing: dict[str, RouterStatistics] | None = None


@dataclass
class Objective:
    """Collects the losses of one step, rate by rate, and sums them up.

    Args:
        weights: factors of the auxiliary losses by name; ``load_balancing`` is that of the adapters' routers.
    """

    weights: Mapping[str, float]
    _transcript: list[Tensor] = field(default_factory=list)
    _by_rates: dict[str, Tensor] = field(default_factory=dict)
    _balance: list[Tensor] = field(default_factory=list)
    _auxiliary: dict[str, list[Tensor]] = field(default_factory=dict)
    _routing: dict[int, list[RouterStatistics]] = field(default_factory=dict)
    _connector_routing: dict[str, list[RouterStatistics]] = field(default_factory=dict)

    def add_transcript(self, name: str, logits: Tensor, labels: Tensor, weight: float = 1.0) -> None:
        """Count the cross-entropy of one pass.

        Args:
            name: the rates, for the record.
            logits: ``(B, S, V)``.
            labels: ``(B, S)`` int64, ignored where -100.
            weight: of the task; the record is without it.
        """
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)
        self._transcript.append(loss * weight)
        self._by_rates[name] = loss.detach()

    def add_adapters(self, context: AdapterContext) -> None:
        """Count what the adapters' routers did in a pass, if there are any."""
        if context.routing:
            self._balance.append(load_balancing_loss(context))
        for layer, statistics in context.routing.items():
            self._routing.setdefault(layer, []).append(statistics)

    def add_connector(self, connected: Connected) -> None:
        """Count the connector's own losses of a pass, and note its routers."""
        for name, value in connected.losses.items():
            self.add(name, value)
        for router, statistics in connected.routing.items():
            self._connector_routing.setdefault(router, []).append(statistics)

    def add(self, name: str, value: Tensor) -> None:
        """Count an auxiliary loss; those of one name are averaged."""
        self._auxiliary.setdefault(name, []).append(value)

    def output(self, logits: Tensor) -> SpeechOutput:
        """The sum, and all that it came from; ``logits`` are handed through."""
        total, balance = torch.stack(self._transcript).mean(), None
        if self._balance:
            balance = torch.stack(self._balance).mean()
            total = total + self.weights["load_balancing"] * balance
        auxiliary = {name: torch.stack(values).mean() for name, values in self._auxiliary.items()}
        for name, value in auxiliary.items():
            total = total + self.weights[name] * value
        return SpeechOutput(
            total,
            logits,
            self._by_rates,
            None if balance is None else balance.detach(),
            {name: value.detach() for name, value in auxiliary.items()},
            {layer: mean_statistics(several) for layer, several in self._routing.items()},
            {router: mean_statistics(several) for router, several in self._connector_routing.items()},
        )
