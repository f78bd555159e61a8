"""Which experts of a MoME adapter fire, and whether they are the same at all rates.

Shape notation: R rates, L layers, K kinds of token, E routed experts, P pairs of rates, D draws.

Source of the question: MoME (NeurIPS 2025), which shows the activated experts of each layer at several rates. The
measures of agreement and their chance levels are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mome.adapters import MomeAdapterConfig
from mome.analysis.findings import Findings, Table, number
from mome.analysis.passes import Progress, passes
from mome.config import MomeConfig
from mome.data.manifests import ManifestRow
from mome.decoding import Transcriber
from mome.errors import MomeError
from mome.model.sequence import KINDS
from mome.rates import Rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Literal["rank correlation", "overlap", "cosine"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
ALL = "all"
"""The kind that is all tokens together."""
DRAWS = 1000
"""Draws of shuffled routing."""


@dataclass(frozen=True)
class Usage:
    """How often tokens of one kind chose the experts, and how sure the router was.

    Attributes:
        tokens: ``(R,)`` numbers of tokens.
        chosen: ``(R, L, E)`` numbers of tokens that chose the expert.
        entropy: ``(R, L)`` mean entropy of a token's router probabilities, in nats; NaN without tokens.
    """

    tokens: np.ndarray
    chosen: np.ndarray
    entropy: np.ndarray

    @property
    def places(self) -> list[int]:
        """Places of the rates with tokens."""
        return [place for place, number in enumerate(self.tokens) if number]

    @property
    def frequency(self) -> np.ndarray:
        """``(R, L, E)`` share of the tokens that chose the expert; top k in sum. NaN without tokens."""
        return _over(self.chosen, self.tokens[:, None, None])

    @property
    def load(self) -> np.ndarray:
        """``(R, L, E)`` the expert's share of all choices; 1 in sum. NaN without tokens."""
        return _over(self.chosen, self.chosen.sum(-1, keepdims=True))

    @property
    def load_entropy(self) -> np.ndarray:
        """``(R, L)`` entropy of the load in nats: log E if all experts are used alike. NaN without tokens."""
        load = self.load
        entropy: np.ndarray = -(load * np.log(np.where(load > 0, load, 1))).sum(-1)
        return entropy


def count_usage(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[str, Usage]:
    """Run the model on clips with their transcripts, and count by kind of token; kinds without tokens are left out.

    Raises:
        MomeError: the model has no MoME adapter, or a clip is unusable.
    """
    adapter = mome_adapter(transcriber.model.config, transcriber.name)
    layers, experts = transcriber.model.config.text_config.num_hidden_layers, adapter.routed_experts
    tokens = torch.zeros(len(rates), len(KINDS), dtype=torch.float64)
    entropy = torch.zeros(len(rates), layers, len(KINDS), dtype=torch.float64)
    chosen = torch.zeros(len(rates), layers, len(KINDS), experts, dtype=torch.float64)

    def observe(place: int, kinds: Tensor, layer: int, probabilities: Tensor, choice: Tensor) -> None:
        valid = kinds >= 0
        kind, flat = kinds[valid], probabilities.reshape(-1, experts)[valid]
        index = kind[:, None] * experts + choice.reshape(len(kinds), -1)[valid]
        counts = index.flatten().bincount(minlength=len(KINDS) * experts)
        chosen[place, layer] += counts.view(len(KINDS), experts).cpu()
        sums = torch.special.entr(flat.double()).sum(-1)
        entropy[place, layer] += sums.new_zeros(len(KINDS)).index_add(0, kind, sums).cpu()

    for read in passes(transcriber, rows, rates, batch_size, progress):
        place, kinds = rates.index(read.rates), read.inputs.kinds.flatten()
        read.run(partial(observe, place, kinds))
        tokens[place] += kinds[kinds >= 0].bincount(minlength=len(KINDS)).cpu()

    def usage(kinds: list[int]) -> Usage:
        number = tokens[:, kinds].sum(1).numpy()
        sums = entropy[:, :, kinds].sum(2).numpy()
        return Usage(number, chosen[:, :, kinds].sum(2).numpy(), _over(sums, number[:, None]))

    present = [kind for kind in range(len(KINDS)) if tokens[:, kind].any()]
    return {KINDS[kind]: usage([kind]) for kind in present} | {ALL: usage(present)}


def mome_adapter(config: MomeConfig, name: str) -> MomeAdapterConfig:
    """The options of a model's MoME adapter; ``name`` is the model's, for the message.

    Raises:
        MomeError: it has none.
    """
    adapter = config.adapter_config
    if not isinstance(adapter, MomeAdapterConfig):
        has = "no adapter" if adapter is None else f"a {adapter.kind} adapter"
        raise MomeError(f"{name} has {has}, so there are no experts: give a model with a mome adapter")
    return adapter


@dataclass(frozen=True)
class Agreement:
    """How alike the loads at different rates are, by layer, for one kind of token and one measure.

    Attributes:
        pairs: ``(L, P)`` agreement of each pair of rates.
        shuffled: ``(D, L)`` mean agreement over the pairs after the experts of each layer and rate were renamed at
            random: what rates have in common by chance.
        other_layers: ``(L,)`` mean agreement with the other layers at the same rate, where the experts with the same
            number have nothing in common but the number; NaN with one layer.
    """

    pairs: np.ndarray
    shuffled: np.ndarray
    other_layers: np.ndarray

    @property
    def above_chance(self) -> np.ndarray:
        """``(L,)`` bool, whether the mean over the pairs is above the 97.5th percentile of shuffled routing."""
        above: np.ndarray = self.pairs.mean(1) > np.quantile(self.shuffled, 0.975, axis=0) + 1e-9
        return above


def agreement(
    load: np.ndarray, groups: Sequence[object], top_k: int, measure: Measure, seed: Sequence[int]
) -> Agreement:
    """Compare loads between rates, with chance and between layers.

    Args:
        load: ``(R, L, E)``.
        groups: R groups of rates, at least two different ones; only rates of different groups are compared, and those
            of one group are renamed alike.
        top_k: size of the sets of the most used experts that are compared.
        measure: Spearman's rank correlation, Jaccard's overlap of the sets of the ``top_k`` most used experts, or the
            cosine. Where all experts have the same load the rank correlation is NaN.
        seed: draws the shuffled routing.
    """
    names = list(dict.fromkeys(groups))
    places = [names.index(group) for group in groups]
    pairs = [pair for pair in combinations(range(len(groups)), 2) if places[pair[0]] != places[pair[1]]]
    vectors = _vectors(load, top_k, measure).swapaxes(0, 1)  # (L, R, E)
    layers, _, experts = vectors.shape
    rng = np.random.default_rng(seed)
    shuffled = np.empty((DRAWS, layers))
    for layer, rows in enumerate(vectors):
        orders = rng.permuted(np.broadcast_to(np.arange(experts), (DRAWS, len(names), experts)), axis=-1)
        renamed = np.take_along_axis(rows[None], orders[:, places], axis=-1)
        shuffled[:, layer] = _agreements(renamed, pairs, top_k, measure).mean(-1)
    across = np.full((layers, layers), np.nan)
    for one, other in combinations(range(layers), 2):
        both = np.stack([vectors[one], vectors[other]], axis=1)
        across[one, other] = across[other, one] = _agreements(both, [(0, 1)], top_k, measure).mean()
    others = [np.delete(row, place).mean() if layers > 1 else np.nan for place, row in enumerate(across)]
    return Agreement(_agreements(vectors, pairs, top_k, measure), shuffled, np.array(others))


def _vectors(load: np.ndarray, top_k: int, measure: Measure) -> np.ndarray:
    """Vectors ``(..., E)`` whose products give the measure; renaming the experts permutes them."""
    if measure == "overlap":
        ranks = rankdata(-load, method="ordinal", axis=-1)
        chosen: np.ndarray = (ranks <= top_k).astype(float)
        return chosen
    if measure == "rank correlation":
        load = rankdata(load, axis=-1) - (load.shape[-1] + 1) / 2
    return _over(load, np.linalg.norm(load, axis=-1, keepdims=True))


def _agreements(vectors: np.ndarray, pairs: Sequence[tuple[int, int]], top_k: int, measure: Measure) -> np.ndarray:
    """Agreement ``(..., P)`` of pairs of rows of ``vectors (..., R, E)``."""
    one, other = (list(side) for side in zip(*pairs, strict=True))
    products: np.ndarray = (vectors[..., one, :] * vectors[..., other, :]).sum(-1)
    return products / (2 * top_k - products) if measure == "overlap" else products


def rate_groups(rates: Sequence[Rates], kind: str) -> list[object]:
    """What the rates must differ in to be compared, for one kind of token: audio tokens in the audio rate, video alike.

    Audio tokens come first: with another video rate they are the very same.
    """
    return [getattr(pair, kind) if kind in ("audio", "video") else pair for pair in rates]


def analyze_experts(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    *,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Findings:
    """Count the use of each expert, and test whether it agrees between rates.

    Args:
        transcriber: a model with a MoME adapter.
        rows: the clips.
        rates: the rates to compare.
        batch_size: number of clips read together.
        seed: draws the shuffled routing.
        progress: called after each pass.

    Raises:
        MomeError: the model has no MoME adapter, or a clip is unusable.
    """
    adapter = mome_adapter(transcriber.model.config, transcriber.name)
    used = count_usage(transcriber, rows, rates, batch_size, progress)
    compared: dict[tuple[str, Measure], Agreement] = {}
    for kind, usage in used.items():
        present = usage.places
        groups = rate_groups([rates[place] for place in present], kind)
        for measure in MEASURES if len(set(groups)) > 1 else ():
            draw = (seed, (*KINDS, ALL).index(kind), MEASURES.index(measure))
            compared[kind, measure] = agreement(usage.load[present], groups, adapter.top_k, measure, draw)
    names = [str(pair) for pair in rates]
    document = {
        "clips": len(rows),
        "rates": names,
        "routed_experts": adapter.routed_experts,
        "top_k": adapter.top_k,
        "draws": DRAWS,
        "agreement": [_summary(*key, found) for key, found in compared.items()],
        "usage": [entry for kind, usage in used.items() for entry in _usage_document(kind, usage, names)],
    }
    tables = {"layers": _layer_table(used, names)}
    figures: dict[str, Callable[[], Figure]] = {}
    for kind, usage in used.items():
        tables[f"experts-{kind}"] = _usage_table({kind: usage}, names, range(usage.chosen.shape[1]))
        figures[f"experts-{kind}"] = partial(_draw_layers, usage, names, kind)
    shown: dict[str, Usage] = {kind: used[kind] for kind in ("audio", "video", "fused") if kind in used}
    tables["experts-by-rate"] = _usage_table(shown, names, _some_layers(used[ALL]))
    figures["experts-by-rate"] = partial(_draw_rates, shown, names)
    if compared:
        tables["agreement"] = _agreement_table(compared)
        figures["agreement"] = partial(_draw_agreement, compared)
    return Findings("experts", document, tables, figures)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient; NaN over 0."""
    quotient: np.ndarray = above / np.where(below > 0, below, np.nan)
    return quotient


def _some_layers(usage: Usage) -> list[int]:
    """The first, a middle and the last layer."""
    layers = usage.chosen.shape[1]
    return sorted({0, layers // 2, layers - 1})


def _usage_document(kind: str, usage: Usage, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "rates": names[place],
            "tokens": int(usage.tokens[place]),
            "layers": [
                {
                    "layer": layer + 1,
                    "frequency": usage.frequency[place, layer].tolist(),
                    "load_entropy": usage.load_entropy[place, layer],
                    "router_entropy": usage.entropy[place, layer],
                }
                for layer in range(usage.chosen.shape[1])
            ],
        }
        for place in usage.places
    ]


def _layer_table(used: dict[str, Usage], names: Sequence[str]) -> Table:
    columns = ("kind", "rates", "layer", "tokens", "router_entropy", "load_entropy", "largest_load", "unused_experts")
    rows = []
    for kind, usage in used.items():
        for place in usage.places:
            for layer, load in enumerate(usage.load[place]):
                entropies = (usage.entropy[place, layer], usage.load_entropy[place, layer])
                most, unused = load.max(), int((load == 0).sum())
                rows.append((kind, names[place], layer + 1, int(usage.tokens[place]), *entropies, most, unused))
    return Table(columns, rows)


def _usage_table(used: dict[str, Usage], names: Sequence[str], layers: Sequence[int]) -> Table:
    rows = [
        (kind, names[place], layer + 1, expert, frequency, usage.load[place, layer, expert])
        for kind, usage in used.items()
        for place in usage.places
        for layer in layers
        for expert, frequency in enumerate(usage.frequency[place, layer])
    ]
    return Table(("kind", "rates", "layer", "expert", "frequency", "load"), rows)


def _levels(found: Agreement) -> list[dict[str, Any]]:
    """Agreement and chance of each layer."""
    low, high = np.quantile(found.shuffled, (0.025, 0.975), axis=0)
    return [
        {
            "layer": layer + 1,
            "mean": number(pairs.mean()),
            "min": number(pairs.min()),
            "max": number(pairs.max()),
            "chance_mean": number(found.shuffled[:, layer].mean()),
            "chance_low": number(low[layer]),
            "chance_high": number(high[layer]),
            "other_layers": number(found.other_layers[layer]),
            "above_chance": bool(found.above_chance[layer]),
        }
        for layer, pairs in enumerate(found.pairs)
    ]


def _summary(kind: str, measure: Measure, found: Agreement) -> dict[str, Any]:
    """Agreement over all layers, and in how many it is above chance."""
    chance = found.shuffled.mean(1)
    low, high = np.quantile(chance, (0.025, 0.975))
    return {
        "kind": kind,
        "measure": measure,
        "rate_pairs": found.pairs.shape[1],
        "mean": number(found.pairs.mean()),
        "min": number(found.pairs.min()),
        "max": number(found.pairs.max()),
        "chance_mean": number(chance.mean()),
        "chance_low": number(low),
        "chance_high": number(high),
        "other_layers": number(found.other_layers.mean()),
        "layers_above_chance": int(found.above_chance.sum()),
        "layers": _levels(found),
    }


def _agreement_table(compared: dict[tuple[str, Measure], Agreement]) -> Table:
    levels = [(*key, *level.values()) for key, found in compared.items() for level in _levels(found)]
    first = next(iter(compared.values()))
    return Table(("kind", "measure", *_levels(first)[0]), levels)


def _draw_layers(usage: Usage, names: Sequence[str], kind: str) -> Figure:
    """Layers by experts, a panel for each pair of rates."""
    from mome.analysis.figures import COLUMN, PAGE, heat_map, panels

    places = usage.places
    columns = min(len(places), 2)
    _, layers, experts = usage.chosen.shape
    height = min(1.0 + 0.12 * layers, 4.0)
    figure, grid = panels(-(-len(places) // columns), columns, width=(COLUMN, PAGE)[columns > 1], height=height)
    for axes in grid.flat[len(places) :]:
        axes.remove()
    for place, axes in zip(places, grid.flat, strict=False):
        heat_map(
            axes,
            usage.frequency[place],
            rows=[str(layer) for layer in range(1, layers + 1)],
            columns=[str(expert) for expert in range(experts)],
            label="share of tokens",
            limits=(0.0, float(np.nanmax(usage.frequency))),
        )
        axes.set(title=f"{kind} tokens at rates {names[place]}", xlabel="expert", ylabel="layer")
    return figure


def _draw_rates(shown: dict[str, Usage], names: Sequence[str]) -> Figure:
    """Rates by experts, a row of panels for each kind and a column for some layers."""
    from mome.analysis.figures import PAGE, heat_map, panels

    layers = _some_layers(next(iter(shown.values())))
    height = 1.0 + 0.14 * len(names)
    figure, grid = panels(len(shown), len(layers), width=PAGE, height=height)
    for row, (kind, usage) in zip(grid, shown.items(), strict=True):
        places = usage.places
        for layer, axes in zip(layers, row, strict=True):
            heat_map(
                axes,
                usage.frequency[places, layer],
                rows=[names[place] for place in places],
                columns=[str(expert) for expert in range(usage.chosen.shape[2])],
                label="share of tokens",
                limits=(0.0, float(np.nanmax(usage.frequency))),
            )
            axes.set_xticks(range(0, usage.chosen.shape[2], -(-usage.chosen.shape[2] // 6)))
            axes.set(title=f"{kind}, layer {layer + 1}", xlabel="expert", ylabel="rates")
    return figure


def _draw_agreement(compared: dict[tuple[str, Measure], Agreement]) -> Figure:
    """Agreement over layers, a row of panels for each kind and a column for each measure."""
    from mome.analysis.figures import COLOURS, PAGE, panels

    kinds = list(dict.fromkeys(kind for kind, _ in compared))
    figure, grid = panels(len(kinds), len(MEASURES), width=PAGE, height=1.6)
    for row, kind in zip(grid, kinds, strict=True):
        for axes, measure in zip(row, MEASURES, strict=True):
            found = compared[kind, measure]
            layers = np.arange(1, len(found.pairs) + 1)
            low, high = np.quantile(found.shuffled, (0.025, 0.975), axis=0)
            axes.fill_between(layers, low, high, color="0.85", label="chance (95 %)")
            axes.fill_between(layers, found.pairs.min(1), found.pairs.max(1), color=COLOURS[0], alpha=0.25, lw=0)
            axes.plot(layers, found.pairs.mean(1), label="between rates (mean, range)")
            axes.plot(layers, found.other_layers, ls="--", label="other layers, same rate")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set(title=f"{kind} tokens", xlabel="layer", ylabel=measure, ylim=(None, 1.05))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
