"""Where the language model attends, and its sinks: the effect of the decorrelation loss can be seen here.

Shape notation: B clips, L positions, H width of the language model.

Source of the question: Llama-AVSR with the sink loss, which finds attention sinks and massive activations at the first
token and at audio and video tokens whose hidden states are like the first one's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mome.analysis.findings import Findings, Table
from mome.analysis.passes import Pass, Progress, passes, watched
from mome.data.manifests import ManifestRow
from mome.decoding import Transcriber
from mome.model.decorrelation import decorrelation_loss
from mome.model.sequence import KINDS
from mome.rates import Rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST = "first"
ATTENDED = (*KINDS, FIRST)
"""What attention can go to; the first token is apart from its kind."""
QUERIES = ("transcript", "all")
"""Whose attention it is."""
SINKS = ("decorrelation", "first_largest", "others_largest")


class Attention:
    """Sums over clips of one pair of rates, by layer.

    Attributes:
        shares: ``(layers, queries, attended)`` sums of attention over the clips' queries, means over the heads.
        uniform: ``(queries, attended)`` the same if attention were uniform over a query's own and all earlier tokens.
        queries: ``(queries,)`` numbers of queries.
        sinks: ``(layers, 3)`` sums over clips, by :data:`SINKS`: the mean squared cosine between the first token and
            the others before the transcript, the largest magnitude in the first token's hidden state, and the largest
            in those of the others.
        clips: number of clips.
    """

    def __init__(self, layers: int) -> None:
        """Start from nothing."""
        self.shares = np.zeros((layers, len(QUERIES), len(ATTENDED)))
        self.uniform = np.zeros((len(QUERIES), len(ATTENDED)))
        self.queries = np.zeros(len(QUERIES))
        self.sinks = np.zeros((layers, len(SINKS)))
        self.clips = 0

    @property
    def share(self) -> np.ndarray:
        """``(layers, queries, attended)`` shares of attention, 1 in sum over what is attended."""
        share: np.ndarray = self.shares / self.queries[:, None]
        return share

    @property
    def uniform_share(self) -> np.ndarray:
        """``(queries, attended)`` the shares of uniform attention."""
        share: np.ndarray = self.uniform / self.queries[:, None]
        return share

    @property
    def sink(self) -> np.ndarray:
        """``(layers, 3)`` means over clips, by :data:`SINKS`."""
        mean: np.ndarray = self.sinks / self.clips
        return mean

    def read(self, read: Pass) -> None:
        """Run the language model on a batch, whose attention must be eager, and add what is seen."""
        inputs = read.inputs
        kinds = inputs.kinds.masked_fill(inputs.mask & (inputs.positions == 0), ATTENDED.index(FIRST))
        attended = torch.nn.functional.one_hot(kinds + 1, len(ATTENDED) + 1)[..., 1:].double()  # (B, L, attended)
        queries = torch.stack([inputs.kinds == KINDS.index("transcript"), inputs.mask]).double()  # (queries, B, L)
        prefix = inputs.mask & (inputs.kinds != KINDS.index("transcript"))
        clips = torch.arange(len(kinds), device=kinds.device)
        first = inputs.mask.int().argmax(1)
        others = inputs.mask.clone()
        others[clips, first] = False

        def watch_attention(layer: int, output: Any) -> None:
            weights = output[1].double().mean(1)  # over the heads: (B, L, L)
            self.shares[layer - 1] += torch.einsum("qbl,blm,bmk->qk", queries, weights, attended).cpu().numpy()

        def watch_layer(layer: int, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            largest = states.float().abs().amax(-1)
            self.sinks[layer - 1, 0] += len(kinds) * float(decorrelation_loss([states], prefix))
            self.sinks[layer - 1, 1] += float(largest[clips, first].sum())
            self.sinks[layer - 1, 2] += float((largest * others).amax(1).sum())

        with watched(read.model, watch_attention, "self_attn"), watched(read.model, watch_layer):
            read.run()
        earlier = attended.cumsum(1) / (inputs.positions[..., None] + 1)
        self.uniform += torch.einsum("qbl,blk->qk", queries, earlier).cpu().numpy()
        self.queries += queries.sum((1, 2)).cpu().numpy()
        self.clips += len(kinds)


def attend(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[Rates, Attention]:
    """Run a model on clips with their transcripts, with eager attention, and sum up where it attends, by rates.

    Attention weights of one layer are held at a time.

    Raises:
        MomeError: a clip is unusable.
    """
    language_model: Any = transcriber.model.language_model
    before = language_model.config._attn_implementation
    found = {pair: Attention(language_model.config.num_hidden_layers) for pair in rates}
    language_model.set_attn_implementation("eager")  # the other kernels do not give their weights
    try:
        for read in passes(transcriber, rows, rates, batch_size, progress):
            found[read.rates].read(read)
    finally:
        language_model.set_attn_implementation(before)
    return found


def attention_findings(models: dict[str, dict[Rates, Attention]]) -> Findings:
    """Shares of attention and sinks by layer, of several models side by side.

    Args:
        models: by model, the result of :func:`attend`.
    """
    runs = [(model, pair, found) for model, by_rates in models.items() for pair, found in by_rates.items()]
    present = np.sum([found.uniform.sum(0) for _, _, found in runs], axis=0) > 0
    kinds = [kind for kind, there in zip(ATTENDED, present, strict=True) if there]
    places = [ATTENDED.index(kind) for kind in kinds]
    document: list[dict[str, object]] = []
    shares: list[tuple[object, ...]] = []
    sinks: list[tuple[object, ...]] = []
    for model, pair, found in runs:
        run = {"model": model, "rates": str(pair)}
        layers = []
        for layer, (share, sink) in enumerate(zip(found.share[..., places], found.sink, strict=True), start=1):
            attended = {
                query: dict(zip(kinds, row, strict=True)) for query, row in zip(QUERIES, share.tolist(), strict=True)
            }
            layers.append({"layer": layer, "attention": attended, **dict(zip(SINKS, sink.tolist(), strict=True))})
            shares += [(*run.values(), layer, query, *row.values()) for query, row in attended.items()]
            sinks.append((*run.values(), layer, *sink.tolist()))
        uniform = dict(zip(QUERIES, found.uniform_share[:, places].tolist(), strict=True))
        shares += [(*run.values(), "uniform", query, *row) for query, row in uniform.items()]
        uniform_document = {query: dict(zip(kinds, row, strict=True)) for query, row in uniform.items()}
        document.append({**run, "clips": found.clips, "uniform": uniform_document, "layers": layers})
    columns = ("model", "rates", "layer")
    tables = {
        "attention": Table((*columns, "queries", *kinds), shares),
        "sinks": Table((*columns, *SINKS), sinks),
    }
    figures = {"attention": partial(_draw_shares, models, kinds), "sinks": partial(_draw_sinks, models)}
    return Findings("attention", {"models": document}, tables, figures)


def _draw_shares(models: dict[str, dict[Rates, Attention]], kinds: Sequence[str]) -> Figure:
    """Share of attention over layers: a row of panels for each kind of query, a column for what is attended."""
    from mome.analysis.figures import COLOURS, PAGE, panels

    figure, grid = panels(len(QUERIES), len(kinds), width=PAGE, height=1.7)
    for q, (row, query) in enumerate(zip(grid, QUERIES, strict=True)):
        for axes, kind in zip(row, kinds, strict=True):
            k = ATTENDED.index(kind)
            for colour, by_rates in zip(cycle(COLOURS), models.values()):
                uniform = np.mean([found.uniform_share[q, k] for found in by_rates.values()])
                axes.axhline(uniform, color=colour, ls=":", lw=0.8)
            _draw_lines(axes, models, partial(_share, q, k))
            axes.set(title=kind, xlabel="layer", ylim=(-0.02, 1.02))
        row[0].set_ylabel(f"attention of\n{query} tokens")
    _legend(figure, grid[0, 0])
    return figure


def _share(query: int, kind: int, found: Attention) -> np.ndarray:
    share: np.ndarray = found.share[:, query, kind]
    return share


def _draw_sinks(models: dict[str, dict[Rates, Attention]]) -> Figure:
    """Attention on the first token, likeness to it, and massive activations, over layers."""
    from mome.analysis.figures import PAGE, panels

    figure, grid = panels(1, 4, width=PAGE, height=2.1)
    first = ATTENDED.index(FIRST)
    drawn: tuple[tuple[str, Callable[[Attention], np.ndarray]], ...] = (
        ("attention on first", partial(_share, QUERIES.index("all"), first)),
        ("cos² to first token", lambda found: found.sink[:, 0]),
        ("max |h|, first token", lambda found: found.sink[:, 1]),
        ("max |h|, other tokens", lambda found: found.sink[:, 2]),
    )
    for axes, (label, values) in zip(grid[0], drawn, strict=True):
        _draw_lines(axes, models, values)
        axes.set(xlabel="layer", ylabel=label)
    for axes in grid[0, :2]:
        axes.set_ylim(-0.02, 1.02)
    for axes in grid[0, 2:]:
        axes.set_ylim(bottom=0)
    _legend(figure, grid[0, 0])
    return figure


def _draw_lines(
    axes: Axes, models: dict[str, dict[Rates, Attention]], values: Callable[[Attention], np.ndarray]
) -> None:
    """A line for each model: the mean over its rates, and their range."""
    from matplotlib.ticker import MaxNLocator

    from mome.analysis.figures import COLOURS

    for colour, (model, by_rates) in zip(cycle(COLOURS), models.items()):
        rates = np.stack([values(found) for found in by_rates.values()])
        layers = np.arange(1, rates.shape[1] + 1)
        axes.fill_between(layers, rates.min(0), rates.max(0), color=colour, alpha=0.25, lw=0)
        axes.plot(layers, rates.mean(0), markersize=2.5, label=model)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2))
