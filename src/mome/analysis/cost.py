"""What a rate costs and buys: word error rate against tokens, operations and measured seconds.

Source: figure 5 of MoME (NeurIPS 2025) draws word error rates against operations. Here the encoders, which run
once whatever the rate, are apart from connector and language model, which the rate is about.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mome.analysis.findings import Findings, Table
from mome.analysis.trials import Progress, Trials, error_bars, failures, per_cent, trials
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.evaluation.result import Result
from mome.rates import Rates, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "model",
    "task",
    "rates",
    "wer",
    "ci_low",
    "ci_high",
    "clips",
    "tokens",
    "encoder_tflops",
    "language_tflops",
    "encoder_seconds",
    "language_seconds",
)
_AXES = {
    "tokens": "tokens the language model reads",
    "language_tflops": "GFLOPs, connector + LM",
    "language_seconds": "seconds, connector + LM",
}

Point = tuple[str, Result]
"""A model's name, and its result at one pair of rates."""


def measure_cost(
    models: Mapping[str, Transcriber],
    rows: Sequence[ManifestRow],
    rates: Mapping[str, Sequence[Rates]],
    *,
    seed: int = 0,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> tuple[Findings, list[Result]]:
    """Measure word error rates and what they cost.

    Tasks are measured one after the other, so that the encoders' seconds are those of the task's modalities. Seconds
    are medians over clips; each model transcribes its first clip once before anything is measured.

    Args:
        models: models by the names that tables and legends give them.
        rows: the clips.
        rates: rates of each model.
        seed: seed of the intervals.
        batch_size: clips transcribed together, whose seconds are shared out equally.
        progress: called after every batch.

    Returns:
        The findings, and all results for a report of clips that failed.
    """
    by_task = [
        (name, [rate for rate in chosen if rate.task == task])
        for name, chosen in rates.items()
        for task in dict.fromkeys(rate.task for rate in chosen)
    ]
    every = [rate for chosen in rates.values() for rate in chosen]
    points: list[Point] = []
    with trials(rows, every, len(by_task), seed=seed, batch_size=batch_size, progress=progress) as run:
        for name, chosen in by_task:
            _warm_up(models[name], run, chosen)
            points += [(name, result) for result in run.run(models[name], chosen)]
        results = run.results
    cells = [_row(*point) for point in points]
    document = {
        "machine": machine(next(iter(models.values())).model.device),
        "batch": batch_size,
        "results": [dict(zip(COLUMNS, row, strict=True)) for row in cells],
        "failures": failures(results),
    }
    figures = {"cost": partial(_draw_trade, points), "cost-parts": partial(_draw_parts, points)}
    tables = {name: Table(COLUMNS, cells) for name in figures}
    return Findings("cost", document, tables, figures), results


def machine(device: torch.device) -> dict[str, Any]:
    """What the seconds were measured on: the processor's name, PyTorch's threads, and the device of the models."""
    name = platform.processor() or platform.machine()
    cores = Path("/proc/cpuinfo")
    if cores.exists():
        lines = cores.read_text(errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    used = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"cpu": name, "threads": torch.get_num_threads(), "device": used}


def _warm_up(transcriber: Transcriber, run: Trials, rates: Sequence[Rates]) -> None:
    """Transcribe the first clip; a failure will be listed when it is measured."""
    try:
        transcriber.transcribe_batch([run.store.get(run.rows[0])], rates)
    except Exception:
        return


def _row(name: str, result: Result) -> tuple[object, ...]:
    condition = result.condition
    low, high = result.ci95 or (None, None)
    transcripts = result.transcripts
    costs: tuple[float | None, ...] = (None,) * 4
    if transcripts:
        encoders = statistics.mean(one.encoder_tflops for one in transcripts)
        costs = (
            encoders,
            statistics.mean(one.tflops for one in transcripts) - encoders,
            statistics.median(one.seconds.encode for one in transcripts),
            statistics.median(one.seconds.decode for one in transcripts),
        )
    known = (name, condition.task, str(condition.rates), result.wer, low, high, result.clips, result.tokens_mean)
    return (*known, *costs)


def _named(point: Point) -> dict[str, Any]:
    return dict(zip(COLUMNS, _row(*point), strict=True))


def _draw_trade(points: Sequence[Point]) -> Figure:
    """A row of panels for each task, a line for each model; AVSR's points are joined by falling tokens."""
    from mome.analysis.figures import PAGE, panels

    tasks: list[Task | None] = list(dict.fromkeys(point[1].condition.task for point in points))
    names = list(dict.fromkeys(name for name, _ in points))
    figure, axes = panels(len(tasks), len(_AXES), width=PAGE, height=2.1)
    for row, task in zip(axes, tasks, strict=True):
        for name in names:
            own = [point for point in points if point[0] == name and point[1].condition.task == task]
            own = sorted((point for point in own if point[1].clips), key=lambda point: point[1].tokens_mean or 0)
            results = [result for _, result in own]
            for panel, (column, label) in zip(row, _AXES.items(), strict=True):
                unit = 1000 if column.endswith("tflops") else 1
                x, y = [unit * _named(point)[column] for point in own], [per_cent(result.wer) for result in results]
                panel.errorbar(x, y, yerr=error_bars(results), capsize=2, elinewidth=0.7, label=name)
                panel.set_xlabel(label)
                if len(names) == 1 and column == "tokens":
                    for index, (place, height, result) in enumerate(zip(x, y, results, strict=True)):
                        spot: dict[str, Any] = {"textcoords": "offset points", "xytext": (3, 3 - 10 * (index % 2))}
                        spot["fontsize"] = 6
                        panel.annotate(str(result.condition.rates), (place, height), **spot)
        row[0].set_ylabel(f"{str(task).upper()}: WER in %")
    for panel in axes.flat:
        panel.margins(x=0.12)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
    if len(names) > 1:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(names), 4))
    return figure


def _draw_parts(points: Sequence[Point]) -> Figure:
    """Bars of operations and seconds, encoders and the rest stacked."""
    from mome.analysis.figures import COLOURS, PAGE, panels

    figure, axes = panels(1, 2, width=PAGE, height=0.8 + 0.17 * len(points))
    several = len({name for name, _ in points}) > 1
    labels = [f"{name} {result.condition.rates}" if several else str(result.condition.rates) for name, result in points]
    units = {"tflops": ("GFLOPs a clip", 1000), "seconds": ("seconds a clip (median)", 1)}
    rows = [_named(point) for point in points]
    for panel, (quantity, (label, unit)) in zip(axes[0], units.items(), strict=True):
        encoders, rest = ([unit * (row[f"{part}_{quantity}"] or 0) for row in rows] for part in ("encoder", "language"))
        places = range(len(points))
        panel.barh(places, encoders, color=COLOURS[5], label="encoders")
        panel.barh(places, rest, left=encoders, color=COLOURS[1], label="connector + LM")
        panel.set_yticks(places, labels)
        panel.invert_yaxis()
        panel.set_xlabel(label)
    axes[0, 1].set_yticks([])
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure
