"""How alike the tokens of different rates are, and those of audio and video: linear correlation and linear CKA.

Shape notation: N pairs of tokens, H width of the language model.

Tokens of different rates cover different stretches of time, so they are paired by time: each of the finer tokens with
the coarser one that covers its middle. The measures are exact on all pairs of the clips that are read.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), for linear CKA; Song et al.,
"Feature Selection via Dependence Maximization" (2012), equation 5, for the unbiased estimate of HSIC in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mome.analysis.findings import Findings, Table, number
from mome.analysis.passes import Pass, Progress, passes, watched
from mome.clip import FRAME_RATE
from mome.config import MomeConfig
from mome.data.manifests import ManifestRow
from mome.decoding import Transcriber
from mome.errors import MomeError
from mome.model.sequence import KINDS
from mome.rates import Rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("correlation", "cka")
MOST_TOKENS = 8192
"""Tokens of one view after which no more clips are read: what all views of these take stays in memory."""


@dataclass(frozen=True)
class View:
    """The tokens of one modality at one rate, clip by clip.

    Attributes:
        modality: ``audio``, ``video`` or ``fused``.
        rates: the rates of the passes that the tokens are from.
        tokens: by clip, ``(N, H)`` float32.
        span: by clip, the seconds that a token covers.
    """

    modality: str
    rates: Rates
    tokens: list[Tensor] = field(default_factory=list)
    span: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as ``audio 4``."""
        own = self.rates if self.modality == "fused" else getattr(self.rates, self.modality)
        return f"{self.modality} {own}"


def correlation(x: Tensor, y: Tensor) -> float:
    """Mean over the pairs of Pearson's correlation of the two tokens' elements.

    Args:
        x, y: ``(N, H)``.

    Returns:
        -1 to 1; NaN if a token has equal elements only, or without pairs.
    """
    one, other = (side.double() - side.double().mean(1, keepdim=True) for side in (x, y))
    return float(((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))).mean())


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA from the unbiased estimate of HSIC.

    Of independent rows its expectation is about 0, where the plain form's would be near 1 unless N is much larger than
    the widths; small negative values occur. It is 1 if ``y`` is a rotation of ``x``, shifted and scaled.

    Args:
        x, y: ``(N, H)`` and ``(N, H')``, rows in pairs.

    Returns:
        At most 1; NaN if N < 4, or one side does not vary.
    """
    x, y = (side.double() - side.double().mean(0) for side in (x, y))
    product = _hsic(x, x) * _hsic(y, y) if len(x) >= 4 else 0.0
    return _hsic(x, y) / math.sqrt(product) if product > 0 else math.nan


def _hsic(x: Tensor, y: Tensor) -> float:
    """Unbiased HSIC of linear kernels, times n (n - 3), without the kernels' (N, N) matrices.

    With K = x xᵀ and L = y yᵀ, both with a zero diagonal: tr(K L) + 1ᵀK1 1ᵀL1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1ᵀK L1.
    """
    n = len(x)
    own, other = x.square().sum(1), y.square().sum(1)
    trace = (x.T @ y).square().sum() - own @ other
    rows, columns = x @ x.sum(0) - own, y @ y.sum(0) - other
    return float(trace + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ columns))


def pair_tokens(one: View, other: View, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Pair the tokens of two views by time: the finer one's with those that cover their middles.

    A token whose middle no other token covers is left out: encoder frames that do not fill a token are dropped.

    Args:
        one, other: views of the same clips.
        shift: pair each clip with that many clips further on, round about, instead of with itself.

    Returns:
        ``(N, H)`` each.
    """
    if other.span[0] < one.span[0]:
        return pair_tokens(other, one, -shift)[::-1]
    rows = []
    for place, (fine, fine_span) in enumerate(zip(one.tokens, one.span, strict=True)):
        to = (place + shift) % len(other.tokens)
        coarse, coarse_span = other.tokens[to], other.span[to]
        index = ((torch.arange(len(fine)).double() + 0.5) * (fine_span / coarse_span) + 1e-9).long()
        covered = index < len(coarse)
        rows.append((fine[covered], coarse[index[covered]]))
    first, second = (torch.cat(side) for side in zip(*rows, strict=True))
    return first, second


def check_layers(config: MomeConfig, layers: Sequence[int]) -> None:
    """Raise :class:`MomeError` if a model of this configuration lacks one of the layers; 0 is the connector."""
    most = config.text_config.num_hidden_layers
    for layer in layers:
        if not 0 <= layer <= most:
            raise MomeError(f"layer {layer} does not exist: the model has layers 0 (the connector) to {most}")


def collect_views(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    layers: Sequence[int],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[int, list[View]]:
    """The tokens of each modality and rate as the connector gives them, or after decoder layers.

    Audio tokens of one audio rate are read at the first of ``rates`` that has it, and video tokens alike.

    Args:
        transcriber: the model.
        rows: the clips.
        rates: the rates.
        layers: decoder layers after which the tokens are taken; 0 is the connector's output.
        batch_size: number of clips read together.
        progress: called after each pass.

    Returns:
        Views by layer.

    Raises:
        MomeError: the model has no such layer, or a clip is unusable.
    """
    config = transcriber.model.config
    check_layers(config, layers)
    first: dict[tuple[str, object], Rates] = {}
    for pair in rates:
        for modality in ("fused",) if config.connector_config.fuses else ("audio", "video"):
            own = pair if modality == "fused" else getattr(pair, modality)
            if own is not None:
                first.setdefault((modality, own), pair)
    ordered = sorted(first.items(), key=lambda item: KINDS.index(item[0][0]))
    views = {layer: [View(modality, pair) for (modality, _), pair in ordered] for layer in layers}
    needed = list(dict.fromkeys(first.values()))

    def keep(read: Pass, layer: int, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        for view in views.get(layer, ()):
            if view.rates != read.rates:
                continue
            for row, kinds, seconds in zip(states, read.inputs.kinds, read.seconds, strict=True):
                tokens = row[kinds == KINDS.index(view.modality)].float().cpu()
                view.tokens.append(tokens)
                view.span.append(_span(config, view, len(tokens), seconds))

    for read in passes(transcriber, rows, needed, batch_size, progress):
        keep(read, 0, read.inputs.embeddings)
        if any(layers):
            with watched(transcriber.model, partial(keep, read)):
                read.run()
        done = read.rates == needed[-1]
        if done and max(sum(map(len, view.tokens)) for view in views[layers[0]]) >= MOST_TOKENS:
            break
    return views


def _span(config: MomeConfig, view: View, tokens: int, seconds: float) -> float:
    """Seconds that a token of a view covers."""
    if view.modality == "audio" and (encoder := config.audio_encoder_class) is not None:
        return (view.rates.audio or 1) / encoder.frames_per_second(config.audio_config)
    if view.modality == "video":
        return (view.rates.video or 1) / FRAME_RATE
    return seconds / max(tokens, 1)


def analyze_similarity(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    *,
    layers: Sequence[int] = (0,),
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Findings:
    """Compare the tokens of all modalities and rates with each other.

    Each figure stands beside that of mismatched clips: each clip's tokens paired with the next clip's. What is left of
    a similarity there has nothing to do with what was said.

    Args:
        transcriber: the model.
        rows: the clips.
        rates: the rates whose tokens are compared.
        layers: decoder layers after which they are compared; 0 is the connector's output.
        batch_size: number of clips read together.
        progress: called after each pass.

    Raises:
        MomeError: the model has no such layer, or a clip is unusable.
    """
    views = collect_views(transcriber, rows, rates, layers, batch_size, progress)
    names = [view.name for view in views[layers[0]]]
    found: dict[tuple[int, str, bool], np.ndarray] = {}
    clips = len(views[layers[0]][0].tokens)
    table: list[tuple[object, ...]] = []
    for layer, compared in views.items():
        for name in MEASURES:
            for mismatched in (False, True):
                found[layer, name, mismatched] = np.full((len(names), len(names)), np.nan)
        for i, one in enumerate(compared):
            for j, other in enumerate(compared[i:], start=i):
                for mismatched in (False, True) if clips > 1 else (False,):
                    pair = pair_tokens(one, other, shift=int(mismatched))
                    values = (correlation(*pair), cka(*pair))
                    for name, value in zip(MEASURES, values, strict=True):
                        found[layer, name, mismatched][[i, j], [j, i]] = value
                    row = (layer, one.name, other.name, "mismatched" if mismatched else "same", len(pair[0]))
                    table.append((*row, *map(number, values)))
    document = {
        "clips": clips,
        "tokens": names,
        "matrices": [
            {
                "layer": layer,
                "measure": name,
                "clips": "mismatched" if mismatched else "same",
                "values": [list(map(number, row)) for row in matrix],
            }
            for (layer, name, mismatched), matrix in found.items()
        ],
    }
    columns = ("layer", "tokens", "other_tokens", "clips", "pairs", *MEASURES)
    return Findings(
        "similarity", document, {"similarity": Table(columns, table)}, {"similarity": partial(_draw, found, names)}
    )


def _draw(found: dict[tuple[int, str, bool], np.ndarray], names: Sequence[str]) -> Figure:
    """Matrices: a row of panels for each layer, a column for each measure and for mismatched clips."""
    from mome.analysis.figures import PAGE, heat_map, panels

    layers = list(dict.fromkeys(layer for layer, _, _ in found))
    labels = {"correlation": "correlation", "cka": "linear CKA"}
    figure, grid = panels(len(layers), 4, width=PAGE, height=1.7)
    least = min(0.0, min(float(np.nanmin(values, initial=0)) for values in found.values()))
    for row, layer in zip(grid, layers, strict=True):
        kinds = [(name, mismatched) for name in MEASURES for mismatched in (False, True)]
        for axes, (name, mismatched) in zip(row, kinds, strict=True):
            values = found[layer, name, mismatched]
            heat_map(axes, values, rows=names, columns=names, label=labels[name], limits=(least, 1.0))
            axes.tick_params(axis="x", rotation=90)
            axes.tick_params(axis="y", labelleft=axes is row[0])
            place = "connector" if layer == 0 else f"layer {layer}"
            axes.set_title(f"{place}, {'other' if mismatched else 'same'} clip")
            for (i, j), value in np.ndenumerate(values) if len(names) <= 6 else ():
                colour = "black" if value > (1 + least) / 2 else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=5, color=colour)
    return figure
