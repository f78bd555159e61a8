"""A sparse mixture of projectors: a router chooses for each token the few experts that project it.

Shape notation: B clips, N tokens of all clips together, D width after compression, H width of the language model,
E experts, k active experts.

Source: Llama-SMoP ("Scaling and Enhancing LLM-based AVSR: A Sparse Mixture of Projectors Approach", arXiv
2505.14336).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from mome.connectors.base import Connected, Connector, ConnectorConfig, Surroundings, TokenCounts, by_rate, parameters
from mome.connectors.pooling import CompressionMethod, compress, compressed_width
from mome.connectors.projectors import Projector
from mome.errors import MomeError, shortened
from mome.features import Features
from mome.operations import count_operations
from mome.options import check_whole
from mome.rates import Rates, RateSet
from mome.routing import RouterStatistics, router_statistics

Sharing = Literal["joint", "experts", "none"]
MOST_EXPERTS = 64


@dataclass(frozen=True)
class MixtureConfig(ConnectorConfig, kind="mixture"):
    """A sparse mixture of projectors for all rates (Llama-SMoP).

    Attributes:
        experts: projectors to choose from.
        top_k: projectors active for a token.
        sharing: what audio and video share: ``"joint"`` the router and the experts (JEJR; their encoders must have
            the same width), ``"experts"`` the experts (JEDR; the same), ``"none"`` nothing (DEDR).
        balance_weight: factor of the load-balancing loss in the form that is 1 at balance, as for the adapters. The
            published 0.01 belongs to the form that is ``top_k`` at balance.
        z_weight: factor of the router z-loss.
    """

    stacks = True
    separate = True

    experts: int = 4
    top_k: int = 2
    sharing: Sharing = "joint"
    balance_weight: float = 0.02
    z_weight: float = 0.001

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming an impossible option."""
        check_whole("experts", self.experts, MOST_EXPERTS)
        check_whole("top_k", self.top_k)
        if self.top_k > self.experts:
            raise MomeError(f"top_k = {self.top_k} is more than experts = {self.experts}: lower it or add experts")
        if self.sharing not in get_args(Sharing):
            raise MomeError(
                f"sharing '{shortened(self.sharing)}' is unknown: choose one of {', '.join(get_args(Sharing))}"
            )

    def build(self, around: Surroundings) -> MixtureConnector:
        """Make the routers and experts.

        Raises:
            MomeError: as :class:`MixtureConnector`.
        """
        return MixtureConnector(around, self)

    def loss_weights(self) -> dict[str, float]:
        """Factors of the load-balancing loss and of the router z-loss (see :func:`router_losses`)."""
        return {"balance": self.balance_weight, "z": self.z_weight}


class Routing(NamedTuple):
    """A router's choice for N tokens, in float32 (float64 where the logits are).

    Attributes:
        logits: (N, E).
        probabilities: (N, E), their softmax.
        chosen: (N, k) long, the most probable experts, best first.
        weights: (N, k), the chosen experts' probabilities scaled to the sum 1.
    """

    logits: Tensor
    probabilities: Tensor
    chosen: Tensor
    weights: Tensor


def route(logits: Tensor, top_k: int) -> Routing:
    """Choose the ``top_k`` most probable experts of each token.

    Args:
        logits: (N, E), floating.
        top_k: from 1 to E.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = logits.softmax(dim=-1)
    kept, chosen = probabilities.topk(top_k, dim=-1)
    return Routing(logits, probabilities, chosen, kept / kept.sum(dim=-1, keepdim=True))


def router_losses(routings: Sequence[Routing]) -> tuple[dict[str, Tensor], RouterStatistics]:
    """Auxiliary losses and statistics of one router, over all tokens of the routings; zero without a token.

    Returns:
        The losses, scalars that are not yet weighted, and the statistics. With z the logits:
        ``"balance"``: :attr:`RouterStatistics.balance_loss`, which is 1 at balance.
        ``"z"``: the mean over the tokens of (log sum_e exp z_e)^2.
    """
    logits, probabilities, chosen = (
        torch.cat([getattr(routing, name) for routing in routings]) for name in ("logits", "probabilities", "chosen")
    )
    statistics = router_statistics(probabilities, chosen)
    z_loss = logits.logsumexp(dim=-1).square().sum() / max(len(logits), 1)
    return {"balance": statistics.balance_loss, "z": z_loss}, statistics


class ProjectorExperts(nn.ModuleList):
    """E projectors; each token passes only through those that were chosen for it.

    State-dict keys: ``{e}.{0,2[,3]}.*``.
    """

    def forward(self, tokens: Tensor, routing: Routing) -> Tensor:
        """Compute sum_e g_e expert_e(x) over the chosen experts e of each token x, g being ``routing.weights``.

        Args:
            tokens: (N, D), floating, in the dtype of the experts.
            routing: the router's choice for the same tokens.

        Returns:
            (N, H) in the dtype of the experts' outputs.
        """
        top_k = routing.chosen.shape[-1]
        # Sorted by expert, so that each expert reads one slice.
        order = routing.chosen.flatten().argsort(stable=True)
        counts = torch.bincount(routing.chosen.flatten(), minlength=len(self)).tolist()
        slices = tokens[order // top_k].split(counts)
        # An expert that no token chose runs on an empty slice, so its gradient is zero and not missing.
        made = torch.cat([expert(part) for expert, part in zip(self, slices, strict=True)])
        made = made[order.argsort()].unflatten(0, (len(tokens), top_k))
        summed: Tensor = (made * routing.weights.unsqueeze(-1).to(made.dtype)).sum(dim=1)
        return summed


class MixtureConnector(Connector):
    """Compression by each clip's rates, then a mixture of projectors that is the same for all rates.

    What audio and video share: ``"joint"`` the router and the experts (JEJR, as the published code and
    checkpoints), ``"experts"`` the experts (JEDR), ``"none"`` nothing (DEDR).

    State-dict keys: ``{owner}.gate.weight`` and ``{owner}.experts.{e}.{0,2[,3]}.*``; the owner is ``audiovisual``
    for what is shared and ``audio`` or ``video`` for what is not.

    Attributes:
        rate_set: the rates.
        method: ``"average"``, ``"stack"`` or ``"segments"``.
        top_k: active experts.
    """

    def __init__(self, around: Surroundings, config: MixtureConfig) -> None:
        """Make the routers and experts.

        Raises:
            MomeError: rates of a modality whose tokens differ in width, different widths of modalities that share
                something, or no rates.
        """
        super().__init__()
        sharing, self.method, self.top_k = config.sharing, around.compression, config.top_k
        sides = {
            "audio": (around.audio_rates, around.audio_width),
            "video": (around.video_rates, around.video_width),
        }
        widths = {
            name: self._width(name, rates, features, self.method)
            for name, (rates, features) in sides.items()
            if features is not None
        }
        self.rate_set = RateSet(
            around.audio_rates if "audio" in widths else (), around.video_rates if "video" in widths else ()
        )
        if sharing != "none" and len(set(widths.values())) > 1:
            raise MomeError(
                f"audio tokens have {widths['audio']} features and video tokens {widths['video']}, which "
                f"sharing '{sharing}' cannot join: choose sharing 'none', or encoders and compression of equal width"
            )
        # The owner of the router and of the experts that each modality uses.
        self._gates = {name: "audiovisual" if sharing == "joint" else name for name in widths}
        self._experts = {name: "audiovisual" if sharing in ("joint", "experts") else name for name in widths}
        for owner in sorted({*self._gates.values(), *self._experts.values()}):
            self.add_module(owner, nn.ModuleDict())
        for name, width in widths.items():
            gates, pools = self._part(self._gates[name]), self._part(self._experts[name])
            if "gate" not in gates:
                gates["gate"] = nn.Linear(width, config.experts, bias=False)
            if "experts" not in pools:
                pools["experts"] = ProjectorExperts(
                    Projector(width, around.out_features, around.hidden, around.norm) for _ in range(config.experts)
                )

    @staticmethod
    def _width(name: str, rates: Sequence[int], features: int, method: CompressionMethod) -> int:
        """Width D of one modality's frames after compression."""
        widths = {compressed_width(features, rate, method) for rate in rates}
        if not widths:
            raise MomeError(f"a mixture of projectors needs at least one {name} rate")
        if len(widths) > 1:
            raise MomeError(
                f"stacking at the {name} rates {', '.join(map(str, rates))} gives tokens of different widths, which "
                "one mixture of projectors cannot read: choose the compression 'average' or a single rate"
            )
        return widths.pop()

    def _part(self, owner: str) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.get_submodule(owner))

    def _compress(self, frames: Tensor, lengths: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        return compress(frames, lengths, int(rate), self.method)

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """See :meth:`Connector.forward`.

        The result has the statistics of each router, and the losses ``"balance"`` and ``"z"`` of
        :func:`router_losses`: a shared router's over all valid tokens together, otherwise the mean of both routers'.
        """
        for rate in rates:
            self.rate_set.check(rate)
        made: dict[str, list[Tensor | None]] = {}
        routings: dict[str, list[Routing]] = {}
        for name, features in (("audio", audio), ("video", video)):
            # Only valid tokens are routed. The published code counts padding in its losses as well, so they depend on
            # how clips are batched.
            rows = by_rate(features, [getattr(rate, name) for rate in rates], self._compress)
            made[name] = rows
            clips = [row for row in rows if row is not None]
            if clips:
                tokens = torch.cat(clips)
                gate, experts = self._gates[name], self._experts[name]
                routing = route(self._part(gate)["gate"](tokens), self.top_k)
                routings.setdefault(gate, []).append(routing)
                projected = self._part(experts)["experts"](tokens, routing)
                parts = iter(projected.split([len(clip) for clip in clips]))
                made[name] = [None if row is None else next(parts) for row in rows]
        by_router = {gate: router_losses(group) for gate, group in routings.items()}
        losses = [router for router, _ in by_router.values()]
        means = {name: torch.stack([router[name] for router in losses]).mean() for name in losses[0]}
        statistics = {gate: router for gate, (_, router) in by_router.items()}
        return Connected(made["audio"], made["video"], [None] * len(rates), means, statistics)

    def active_parameters(self) -> int:
        """Number of parameters without the experts that a token does not choose."""
        pools = [module for module in self.modules() if isinstance(module, ProjectorExperts)]
        return parameters(self) - sum(parameters(pool[0]) * (len(pool) - self.top_k) for pool in pools)

    def operations(
        self, audio: Features | None, video: Features | None, rates: Rates, tokens: TokenCounts | None = None
    ) -> int:
        """Count those of the routers and of ``top_k`` experts; without values the routers cannot choose any."""
        total = 0
        for name, features in (("audio", audio), ("video", video)):
            for row in by_rate(features, [getattr(rates, name)], self._compress):
                if row is not None:
                    gate = self._part(self._gates[name])["gate"]
                    expert = cast(ProjectorExperts, self._part(self._experts[name])["experts"])[0]
                    total += count_operations(partial(gate, row)) + self.top_k * count_operations(partial(expert, row))
        return total
