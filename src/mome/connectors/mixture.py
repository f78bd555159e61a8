"""A sparse mixture of projectors: every token is projected by the few experts that a router chooses for it.

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
        sharing: ``"joint"`` one router and one set of experts for audio and video (JEJR; their encoders must have
            the same width), ``"experts"`` one set of experts but a router each (JEDR), ``"none"`` nothing (DEDR).
        balance_weight: factor of the load-balancing loss in the form that is 1 at balance, as for the adapters. The
            published 0.01 belongs to the form that is ``top_k`` at balance.
        z_weight: factor of the router z-loss.
    """

    stacks = True

    experts: int = 4
    top_k: int = 2
    sharing: Sharing = "joint"
    balance_weight: float = 0.02
    z_weight: float = 0.001

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        check_whole("experts", self.experts, MOST_EXPERTS)
        check_whole("top_k", self.top_k)
        if self.top_k > self.experts:
            raise MomeError(f"top_k = {self.top_k} is more than experts = {self.experts}: lower it or add experts")
        if self.sharing not in get_args(Sharing):
            raise MomeError(
                f"sharing '{shortened(self.sharing)}' is unknown: choose one of {', '.join(get_args(Sharing))}"
            )

    def build(self, around: Surroundings) -> MixtureConnector:
        """Make the routers and experts."""
        return MixtureConnector(
            around.audio_rates,
            around.video_rates,
            around.audio_features,
            around.video_features,
            around.out_features,
            around.hidden,
            experts=self.experts,
            top_k=self.top_k,
            sharing=self.sharing,
            method=around.compression,
            norm=around.norm,
        )

    def loss_weights(self) -> dict[str, float]:
        """Of the load-balancing loss and of the router z-loss."""
        return {"balance": self.balance_weight / self.top_k, "z": self.z_weight}


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
    """Auxiliary losses and statistics of one router over all tokens of the given routings, zero where there are none.

    Returns:
        ``"balance"``: E * sum over experts of (share of the tokens that choose it, in any of the k places) * (its
        mean probability), k where all experts are used alike. Only the probabilities carry a gradient.
        ``"z"``: mean squared logsumexp of the logits. Both scalar, without weights. Then the statistics.
    """
    logits, probabilities, chosen = (
        torch.cat([getattr(routing, name) for routing in routings]) for name in ("logits", "probabilities", "chosen")
    )
    statistics = router_statistics(probabilities, chosen)
    # The statistics count assignments, of which a token has k.
    balance = chosen.shape[-1] * statistics.balance_loss
    return {"balance": balance, "z": logits.logsumexp(dim=-1).square().sum() / max(len(logits), 1)}, statistics


class ProjectorExperts(nn.ModuleList):
    """E projectors, of which a token passes through those chosen for it only.

    State-dict keys: ``{e}.{0,2[,3]}.*``.
    """

    def forward(self, tokens: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of the chosen experts' outputs.

        Args:
            tokens: (N, D), floating, in the dtype of the experts.
            routing: of the same tokens.

        Returns:
            (N, H) in the dtype that the experts give.
        """
        top_k = routing.chosen.shape[-1]
        # Sorted by expert, so that each expert reads one slice.
        order = routing.chosen.flatten().argsort(stable=True)
        counts = torch.bincount(routing.chosen.flatten(), minlength=len(self)).tolist()
        slices = tokens[order // top_k].split(counts)
        # An expert nobody chose runs on nothing: its gradient is zero then, and not missing.
        made = torch.cat([expert(part) for expert, part in zip(self, slices, strict=True)])
        made = made[order.argsort()].unflatten(0, (len(tokens), top_k))
        return (made * routing.weights.unsqueeze(-1).to(made.dtype)).sum(dim=1)


class MixtureConnector(Connector):
    """Compression by the clip's rates, then the mixture of projectors, the same for all rates.

    What audio and video share: ``"joint"`` the router and the experts (JEJR, as the published code and
    checkpoints), ``"experts"`` the experts (JEDR), ``"none"`` nothing (DEDR).

    State-dict keys: ``{owner}.gate.weight`` and ``{owner}.experts.{e}.{0,2[,3]}.*``; the owner is ``audiovisual``
    for what is shared and ``audio`` or ``video`` for what is not.

    Attributes:
        grid: the rates.
        method: ``"average"`` or ``"stack"``.
        top_k: active experts.
    """

    def __init__(
        self,
        audio_rates: Sequence[int],
        video_rates: Sequence[int],
        audio_features: int | None,
        video_features: int | None,
        out_features: int = 2048,
        hidden: int = 2048,
        *,
        experts: int = 4,
        top_k: int = 2,
        sharing: Sharing = "joint",
        method: CompressionMethod = "average",
        norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the routers and experts.

        Args:
            audio_rates, video_rates: of the two modalities.
            audio_features, video_features: width of the encoder's tokens; ``None`` leaves that modality out.
            out_features: width H of the language model.
            hidden: inner width of the experts.
            experts: E, of each owner.
            top_k: k, from 1 to E.
            sharing: what audio and video share, see above.
            method: ``"average"`` or ``"stack"``.
            norm: whether the experts end with a LayerNorm, as the published ones do.
            device, dtype: of the parameters.

        Raises:
            MomeError: several rates of a modality with stacking, different widths of modalities that share
                something, no or impossible rates, or an unknown method.
        """
        super().__init__()
        widths = {
            name: self._width(name, rates, features, method)
            for name, rates, features in (
                ("audio", audio_rates, audio_features),
                ("video", video_rates, video_features),
            )
            if features is not None
        }
        self.rate_set = RateSet(
            audio=tuple(audio_rates) if "audio" in widths else (),
            video=tuple(video_rates) if "video" in widths else (),
        )
        if sharing != "none" and len(set(widths.values())) > 1:
            raise MomeError(
                f"audio tokens have {widths['audio']} features and video tokens {widths['video']}, which "
                f"sharing '{sharing}' cannot join: choose sharing 'none', or encoders and compression of equal width"
            )
        self.method: CompressionMethod = method
        self.top_k = top_k
        self._gates = {name: "audiovisual" if sharing == "joint" else name for name in widths}
        self._experts = {name: "audiovisual" if sharing in ("joint", "experts") else name for name in widths}
        for owner in sorted({*self._gates.values(), *self._experts.values()}):
            self.add_module(owner, nn.ModuleDict())
        for name, width in widths.items():
            gates, pools = self._part(self._gates[name]), self._part(self._experts[name])
            if "gate" not in gates:
                gates["gate"] = nn.Linear(width, experts, bias=False, device=device, dtype=dtype)
            if "experts" not in pools:
                pools["experts"] = ProjectorExperts(
                    Projector(width, out_features, hidden, norm, device=device, dtype=dtype) for _ in range(experts)
                )

    @staticmethod
    def _width(name: str, rates: Sequence[int], features: int, method: CompressionMethod) -> int:
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

    def _compress(self, tokens: Tensor, lengths: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        return compress(tokens, lengths, int(rate), self.method)

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """See :meth:`Connector.forward`.

        There are statistics of each router, and the losses ``"balance"`` and ``"z"`` of :func:`router_losses`: of all
        valid tokens together with a shared router, otherwise the mean over the routers that had a modality to route.
        """
        for rate in rates:
            self.rate_set.check(rate)
        made: dict[str, list[Tensor | None]] = {}
        routings: dict[str, list[Routing]] = {}
        for name, stream in (("audio", audio), ("video", video)):
            # Only valid tokens are routed. The published code counts padding in its losses as well, so that they
            # depend on how clips are batched.
            rows = by_rate(stream, [getattr(rate, name) for rate in rates], self._compress)
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
        routed = {gate: router_losses(group) for gate, group in routings.items()}
        losses = [each for each, _ in routed.values()]
        means = {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}
        statistics = {gate: each for gate, (_, each) in routed.items()}
        return Connected(made["audio"], made["video"], [None] * len(rates), means, statistics)

    def active_parameters(self) -> int:
        """All but the experts that are not chosen for a token."""
        pools = [module for module in self.modules() if isinstance(module, ProjectorExperts)]
        return parameters(self) - sum(parameters(pool[0]) * (len(pool) - self.top_k) for pool in pools)

    def operations(
        self, audio: Features | None, video: Features | None, rates: Rates, tokens: TokenCounts | None = None
    ) -> int:
        """Operations of the routers and of the chosen experts, which without content nothing chooses."""
        total = 0
        for name, features in (("audio", audio), ("video", video)):
            for row in by_rate(features, [getattr(rates, name)], self._compress):
                if row is not None:
                    gate = self._part(self._gates[name])["gate"]
                    expert = cast(ProjectorExperts, self._part(self._experts[name])["experts"])[0]
                    total += count_operations(partial(gate, row)) + self.top_k * count_operations(partial(expert, row))
        return total
