"""Word error rates at rates that a model was trained at and at others, against average pooling at inference.

An untrained rate is pooled as asked and takes the projector (and whatever else depends on the rate, such as LoRA
updates) of the nearest trained rate of the modality: nearest in the ratio, the finer of two equally near. The
control averages the tokens of the finest trained rate further: average pooling at inference, which Llama-MTSK's
table III compares with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from mome.analysis.findings import Findings, Table
from mome.analysis.trials import Progress, error_bars, failures, per_cent, trials
from mome.connectors.pooling import compress, compressed_width
from mome.connectors.projectors import RateProjectors
from mome.connectors.shared import SharedProjector
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.errors import MomeError
from mome.evaluation.result import Condition, Result
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates, RateSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Way = Literal["trained", "nearest", "pooled"]
"""How tokens come about: at a trained rate, by the nearest projector, or averaged from the finest rate's."""
Trial = tuple[Way, Rates, Result]
"""How tokens came about, the trained rates that the model was run at, and the result by the rates asked for."""
COLUMNS = ("task", "rates", "way", "fed_as", "wer", "ci_low", "ci_high", "clips", "tokens")
SIDES = ("audio", "video")


def nearest(rate: float, trained: Sequence[int]) -> int:
    """The trained rate whose ratio to ``rate`` is nearest to 1; of two equally near the finer."""
    # Rounded, as 8 / 4 and 16 / 8 may differ in the last digit of their logarithms.
    return min(trained, key=lambda known: (round(abs(math.log(known / rate)), 9), known))


def nearest_rates(rates: Rates, rate_set: RateSet) -> Rates:
    """The nearest trained pair of rates, each modality by itself."""
    audio, video = (
        None if rate is None else nearest(rate, known)
        for rate, known in ((rates.audio, rate_set.audio), (rates.video, rate_set.video))
    )
    return Rates(audio, video)


def finest_rates(rates: Rates, rate_set: RateSet) -> Rates | None:
    """The finest trained pair of the same task; ``None`` if its tokens cannot be averaged to ``rates``."""
    pairs = ((rates.audio, rate_set.audio), (rates.video, rate_set.video))
    if any(rate is not None and rate % known[0] for rate, known in pairs):
        return None
    return Rates(*(None if rate is None else known[0] for rate, known in pairs))


class _Repooled(nn.Module):
    """A modality's projectors, whose tokens come at another rate than the one asked for."""

    def __init__(self, side: Any, rate: int, way: Way) -> None:
        """Give tokens of ``rate`` frames."""
        super().__init__()
        self.side, self.rate, self.way = side, rate, way

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Tokens by the projector of the trained ``rate``; a :data:`~mome.connectors.base.Compressor`."""
        if self.way == "pooled":
            tokens, lengths = self.side(frames, lengths, rate)
            return compress(tokens, lengths, self.rate // rate)
        shared = isinstance(self.side, SharedProjector)
        projector = self.side.projector if shared else self.side.projector(rate)
        if shared and self.side.method == "average":
            return compress(projector(frames), lengths, self.rate)
        pooled, lengths = compress(frames, lengths, self.rate, self.side.method)
        return projector(pooled), lengths


@contextmanager
def repooled(model: MomeForSpeechRecognition, asked: Rates, fed_as: Rates, way: Way) -> Iterator[None]:
    """In this block, the model gives tokens at the rates ``asked`` when it is run at the trained rates ``fed_as``."""
    connector: Any = model.connector
    before = {name: getattr(connector, name) for name in SIDES if getattr(asked, name) != getattr(fed_as, name)}
    try:
        for name, side in before.items():
            setattr(connector, name, _Repooled(side, int(getattr(asked, name)), way))
        yield
    finally:
        for name, side in before.items():
            setattr(connector, name, side)


def check_possible(model: MomeForSpeechRecognition, asked: Sequence[Rates]) -> None:
    """Check that the model's projectors can take untrained rates.

    Raises:
        MomeError: the connector has no projectors that could, a rate is not whole, or stacks would differ in width.
    """
    config, rate_set, connector = model.config, model.rate_set, model.connector
    kind = config.connector_config.kind
    sides = {name: getattr(connector, name, None) for name in SIDES}
    if not all(isinstance(side, RateProjectors | SharedProjector | None) for side in sides.values()) or not any(
        sides.values()
    ):
        raise MomeError(
            f"the connector {kind} has no projectors that untrained rates could take: give a model with the connector "
            "projectors or shared"
        )
    for rates in asked:
        for name, side in sides.items():
            rate = getattr(rates, name)
            if rate is None or rate in getattr(rate_set, name):
                continue
            if side is None:
                raise MomeError(f"rates ({rates}) need {name}, which this model does not read: {rate_set}")
            if not isinstance(rate, int):
                raise MomeError(f"rates ({rates}): frames are pooled by whole numbers, give such rates")
            known = nearest(rate, getattr(rate_set, name))
            if side.method != "average" and compressed_width(1, rate, side.method) != compressed_width(
                1, known, side.method
            ):
                raise MomeError(
                    f"rates ({rates}): compression={side.method} gives tokens of another width at {rate} than at "
                    f"{known}, whose projector cannot read them: choose other rates"
                )


def default_rates(rate_set: RateSet) -> list[Rates]:
    """Trained rates of the main task and untrained ones between and beyond them; modalities become coarser together.

    Between two trained rates is the whole number nearest to the middle of the ratio; beyond the coarsest are one and
    a half times and twice that.
    """
    sides: list[list[int]] = []
    for known in (rate_set.audio, rate_set.video):
        between = [round(math.sqrt(fine * coarse)) for fine, coarse in pairwise(known)]
        sides.append(sorted({*known, *between, *(round(factor * rate) for rate in known[-1:] for factor in (1.5, 2))}))
    task = rate_set.main_rates()[0].task
    audio, video = sides
    if task == "avsr":
        steps = range(max(len(audio), len(video)))
        return [Rates(audio[min(step, len(audio) - 1)], video[min(step, len(video) - 1)]) for step in steps]
    return [Rates(rate, None) for rate in audio] if task == "asr" else [Rates(None, rate) for rate in video]


def measure_rates(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    asked: Sequence[Rates],
    *,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> tuple[Findings, list[Result]]:
    """Measure word error rates at trained and untrained rates, and at tokens averaged from the finest rate's.

    Args:
        transcriber: the model; it is as before afterwards.
        rows: the clips.
        asked: rates, trained or not.
        seed: seed of the intervals.
        batch_size: clips transcribed together.
        progress: called after every batch.

    Returns:
        The findings, and all results for a report of clips that failed.

    Raises:
        MomeError: as :func:`check_possible`.
    """
    model, rate_set = transcriber.model, transcriber.model.rate_set
    check_possible(model, asked)
    plan: list[tuple[Way, Rates, Rates]] = []
    for rates in asked:
        trained = nearest_rates(rates, rate_set)
        plan.append(("trained" if trained == rates else "nearest", rates, trained))
        finest = finest_rates(rates, rate_set)
        if finest is not None and finest != rates:
            plan.append(("pooled", rates, finest))
    found: list[Trial] = []
    with trials(rows, asked, len(plan), seed=seed, batch_size=batch_size, progress=progress) as run:
        for way, rates, fed_as in plan:
            with repooled(model, rates, fed_as, way):
                (result,) = run.run(transcriber, [fed_as])
            found.append((way, fed_as, replace(result, condition=Condition(rates))))
    cells = [_row(*trial) for trial in found]
    document = {
        "nearest": "in the ratio; of two equally near the finer",
        "trained": {"audio": list(rate_set.audio), "video": list(rate_set.video)},
        "results": [dict(zip(COLUMNS, row, strict=True)) for row in cells],
        "failures": failures(result for _, _, result in found),
    }
    findings = Findings("rates", document, {"rates": Table(COLUMNS, cells)}, {"rates": partial(_draw, found)})
    return findings, [result for _, _, result in found]


def _row(way: Way, fed_as: Rates, result: Result) -> tuple[object, ...]:
    low, high = result.ci95 or (None, None)
    condition = (result.condition.task, str(result.condition.rates), way, str(fed_as))
    return (*condition, result.wer, low, high, result.clips, result.tokens_mean)


def _draw(found: Sequence[Trial]) -> Figure:
    """A panel for each task: rates from fine to coarse, trained ones filled, and the control."""
    from mome.analysis.figures import COLOURS, panels

    tasks = list(dict.fromkeys(result.condition.task for _, _, result in found))
    figure, axes = panels(len(tasks), 1)
    for panel, task in zip(axes[:, 0], tasks, strict=True):
        own = [trial for trial in found if trial[2].condition.task == task]
        ticks = list(dict.fromkeys(str(result.condition.rates) for _, _, result in own))
        lines: tuple[tuple[str, str, set[Way]], ...] = (
            ("nearest projector", COLOURS[0], {"trained", "nearest"}),
            ("average pooling at inference", COLOURS[1], {"pooled"}),
        )
        for label, colour, ways in lines:
            line = [trial for trial in own if trial[0] in ways and trial[2].clips]
            results = [result for _, _, result in line]
            places = [ticks.index(str(result.condition.rates)) for result in results]
            heights = [per_cent(result.wer) for result in results]
            style: dict[str, Any] = {"color": colour, "capsize": 2, "elinewidth": 0.7, "label": label}
            panel.errorbar(places, heights, yerr=error_bars(results), marker="s" if ways == {"pooled"} else "", **style)
            for place, height, (way, _, _) in zip(places, heights, line, strict=True):
                if way != "pooled":
                    panel.plot(place, height, "o", color=colour, markerfacecolor=colour if way == "trained" else "w")
        panel.set_xticks(range(len(ticks)), ticks, rotation=45 if len(ticks) > 6 else 0)
        panel.set_xlabel("rates, audio,video (filled: trained)")
        panel.set_ylabel(f"{str(task).upper()}: WER in %")
        panel.set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
