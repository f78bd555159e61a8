"""How recognition degrades: word error rate against signal-to-noise ratio, and with faults of lips and sound.

Every condition is compared with clean clips of the same model, task and rates. Noise is not mixed in for VSR, nor is
a fault tried on a task that does not read the modality it spoils.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mome.analysis.findings import Findings, Table
from mome.analysis.trials import Progress, error_bars, failures, per_cent, trials
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.errors import MomeError
from mome.evaluation.result import Result, change
from mome.media import load_clip
from mome.media.faults import Fault
from mome.media.noise import babble, speech_shaped_noise, white_noise
from mome.rates import Rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MADE = ("babble", "speech-shaped", "white")
"""Noises that :func:`make_noise` makes."""
SHIFTS = (-200, -120, -80, -40, 40, 80, 120, 200)
FAULTS = (
    *(Fault("frozen", share) for share in (0.5, 1)),
    *(Fault("dropped", share) for share in (0.25, 0.5)),
    *(Fault("occluded", share) for share in (0.5, 1)),
    *(Fault("blurred", sigma) for sigma in (2, 4)),
    *(Fault("shifted", milliseconds) for milliseconds in SHIFTS),
    *(Fault("silent", share) for share in (0.25, 0.5, 1)),
)
_VOICES = 32
_FIRST = ("model", "task", "rates")
_LAST = ("wer", "ci_low", "ci_high", "change", "change_low", "change_high", "clips")
NOISE_COLUMNS = (*_FIRST, "noise", "snr_db", *_LAST)
FAULT_COLUMNS = (*_FIRST, "fault", "amount", *_LAST)


def make_noise(names: Sequence[str], rows: Sequence[ManifestRow], seed: int) -> dict[str, np.ndarray]:
    """Make noises, ``(samples,)`` float32 at 16 kHz, by their names in :data:`MADE`.

    Babble and speech-shaped noise are made of the first 32 rows' sound, each clip at the same power.

    Raises:
        MomeError: none of these clips has sound that can be read.
    """
    rng = np.random.default_rng(seed)
    if set(names) <= {"white"}:
        return {name: white_noise(rng) for name in names}
    voices = []
    for row in rows[:_VOICES]:
        try:
            sound = load_clip(row.path, audio=True, video=False, excerpt=row.excerpt).audio
        except MomeError:
            continue  # it will be listed if it is transcribed
        if sound is not None and sound.any():
            voices.append(sound / np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    if not voices:
        raise MomeError("babble and speech-shaped noise are made of the clips' sound, and none has any: give --noise")
    speech = np.concatenate(voices).astype(np.float32)
    made = {"babble": partial(babble, speech), "speech-shaped": partial(speech_shaped_noise, speech)}
    return {name: made.get(name, white_noise)(rng) for name in names}


@dataclass(frozen=True)
class Trial:
    """A result, what was wrong with the clips (``None``: nothing), and the result with clean clips."""

    model: str
    cause: str | Fault | None
    result: Result
    control: Result

    @property
    def line(self) -> tuple[str, ...]:
        """What the points of a line in a figure have in common."""
        return (self.model, str(self.result.condition.task), str(self.result.condition.rates))


def _heard(rates: Rates) -> bool:
    return rates.audio is not None


def measure_noise(
    models: Mapping[str, Transcriber],
    rows: Sequence[ManifestRow],
    rates: Mapping[str, Sequence[Rates]],
    *,
    noises: Mapping[str, np.ndarray],
    snrs: Sequence[float],
    faults: Sequence[Fault],
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> tuple[Findings, list[Result]]:
    """Measure word error rates in noise and with faults, and how much higher they are than with clean clips.

    Args:
        models: models by the names that tables and legends give them.
        rows: the clips.
        rates: rates of each model.
        noises: ``(samples,)`` float, 16 kHz, by name.
        snrs: signal-to-noise ratios in dB.
        faults: faults of lips or sound.
        seed: seed of noise, faults and intervals.
        batch_size: clips transcribed together.
        progress: called after every batch.

    Returns:
        The findings, and all results for a report of clips that failed.
    """
    plan: list[tuple[str, str | Fault, list[Rates]]] = []
    for name, chosen in rates.items():
        causes: list[str | Fault] = [*noises, *faults]
        for cause in causes:
            concerns = cause.concerns if isinstance(cause, Fault) else _heard
            if touched := [rate for rate in chosen if concerns(rate)]:
                plan.append((name, cause, touched))
    every = [rate for chosen in rates.values() for rate in chosen]
    found: list[Trial] = []
    with trials(rows, every, len(models) + len(plan), seed=seed, batch_size=batch_size, progress=progress) as run:
        clean: dict[tuple[str, Rates | None], Result] = {}
        for name, chosen in rates.items():
            for result in run.run(models[name], chosen):
                clean[name, result.condition.rates] = result
                found.append(Trial(name, None, result, result))
        for name, cause, touched in plan:
            if isinstance(cause, Fault):
                results = run.run(models[name], touched, spoil=partial(_spoil, cause, seed))
            else:
                results = run.run(models[name], touched, snrs, noise=noises[cause])
            found += [Trial(name, cause, result, clean[name, result.condition.rates]) for result in results]
        results = run.results
    in_noise = [_row(trial, seed) for trial in found if not isinstance(trial.cause, Fault)]
    faulty = [_row(trial, seed) for trial in found if not isinstance(trial.cause, str)]
    document = {
        "noise": [dict(zip(NOISE_COLUMNS, row, strict=True)) for row in in_noise],
        "faults": [dict(zip(FAULT_COLUMNS, row, strict=True)) for row in faulty],
        "failures": failures(results),
    }
    tables, figures = {}, {}
    if noises:
        tables["noise"], figures["noise"] = Table(NOISE_COLUMNS, in_noise), partial(_draw_noise, found)
    if faults:
        tables["faults"] = Table(FAULT_COLUMNS, faulty)
        if any(fault.kind != "shifted" for fault in faults):
            figures["faults"] = partial(_draw_faults, found, seed)
        if any(fault.kind == "shifted" for fault in faults):
            figures["shift"] = partial(_draw_shift, found)
    return Findings("noise", document, tables, figures), results


def _spoil(fault: Fault, seed: int, clip: Any, name: str) -> Any:
    return fault(clip, seed, name)


def _row(trial: Trial, seed: int) -> tuple[object, ...]:
    result, cause = trial.result, trial.cause
    amount = cause.amount if isinstance(cause, Fault) else result.condition.snr_db
    kind = cause.kind if isinstance(cause, Fault) else cause or "clean"
    low, high = result.ci95 or (None, None)
    more = None if cause is None else change([(result, trial.control)], seed)
    changed = (None, None, None) if more is None else (more.wer, *more.ci95)
    return (*trial.line, kind, amount, result.wer, low, high, *changed, result.clips)


def _lines(found: Sequence[Trial]) -> dict[tuple[str, ...], list[Trial]]:
    lines: dict[tuple[str, ...], list[Trial]] = {}
    for trial in found:
        if trial.result.clips:
            lines.setdefault(trial.line, []).append(trial)
    return lines


def _label(line: tuple[str, ...], found: Sequence[Trial]) -> str:
    model, task, rates = line
    return (
        f"{task.upper()} {rates}" if len({trial.model for trial in found}) == 1 else f"{model} {task.upper()} {rates}"
    )


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


def _draw_noise(found: Sequence[Trial]) -> Figure:
    """A panel for each noise, ratios from clean to loud noise; VSR, which hears none, as a level."""
    from mome.analysis.figures import COLUMN, PAGE, panels

    noises = list(dict.fromkeys(trial.cause for trial in found if isinstance(trial.cause, str)))
    columns = min(len(noises), 3)
    width = COLUMN if columns == 1 else PAGE
    figure, axes = panels(-(-len(noises) // columns), columns, width=width, height=2.2)
    for panel in axes.flat[len(noises) :]:
        panel.set_visible(False)
    for panel, noise in zip(axes.flat, noises, strict=False):
        for line, own in _lines(found).items():
            clean = [trial.result for trial in own if trial.cause is None]
            noisy = [trial.result for trial in own if trial.cause == noise]
            results = sorted(noisy, key=lambda result: result.condition.snr_db or 0)
            label = _label(line, found)
            if results:
                x, y = [result.condition.snr_db for result in results], [per_cent(result.wer) for result in results]
                drawn = panel.errorbar(x, y, yerr=error_bars(results), capsize=2, elinewidth=0.7, label=label)
                colour, style = drawn[0].get_color(), ":"
            else:
                colour, style = panel.plot([], [], linestyle="--", marker="", label=label)[0].get_color(), "--"
            for result in clean:  # dotted: the level in clean speech
                panel.axhline(per_cent(result.wer), color=colour, linestyle=style, linewidth=0.8, zorder=1)
        panel.set_title(noise)
        panel.set_xlabel("SNR in dB")
        panel.set_ylim(bottom=0)
    for row in axes:
        row[0].set_ylabel("WER in %")
    _legend(figure, axes[0, 0])
    return figure


def _draw_faults(found: Sequence[Trial], seed: int) -> Figure:
    """How many points of word error rate each fault adds, with its interval."""
    from mome.analysis.figures import panels

    faults = [trial.cause for trial in found if isinstance(trial.cause, Fault) and trial.cause.kind != "shifted"]
    kinds = list(dict.fromkeys(faults))
    lines = _lines(found)
    figure, axes = panels(height=1 + (0.12 + 0.08 * len(lines)) * len(kinds))
    panel = axes[0, 0]
    for number, (line, own) in enumerate(lines.items()):
        x, y, bars = [], [], []
        for trial in own:
            if not isinstance(trial.cause, Fault) or trial.cause not in kinds:
                continue
            more = change([(trial.result, trial.control)], seed)
            if more is not None:
                x.append(100 * more.wer)
                y.append(kinds.index(trial.cause) + 0.6 * ((number + 0.5) / len(lines) - 0.5))
                bars.append([max(100 * (more.wer - more.ci95[0]), 0), max(100 * (more.ci95[1] - more.wer), 0)])
        if x:
            panel.errorbar(x, y, xerr=np.transpose(bars), linestyle="", elinewidth=0.7, label=_label(line, found))
    panel.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    panel.set_yticks(range(len(kinds)), [str(kind) for kind in kinds])
    panel.invert_yaxis()
    panel.set_xlabel("WER above that of clean clips, points")
    _legend(figure, panel)
    return figure


def _draw_shift(found: Sequence[Trial]) -> Figure:
    """Word error rate against how late the lips are; clean clips are those that are 0 ms late."""
    from mome.analysis.figures import panels

    figure, axes = panels()
    panel = axes[0, 0]
    for line, own in _lines(found).items():
        late = {
            trial.cause.amount if isinstance(trial.cause, Fault) else 0.0: trial.result
            for trial in own
            if trial.cause is None or (isinstance(trial.cause, Fault) and trial.cause.kind == "shifted")
        }
        if len(late) > 1:
            results = [late[place] for place in sorted(late)]
            y = [per_cent(result.wer) for result in results]
            style: dict[str, Any] = {"capsize": 2, "elinewidth": 0.7, "label": _label(line, found)}
            panel.errorbar(sorted(late), y, yerr=error_bars(results), **style)
    panel.set_xlabel("lips late by, ms (negative: early)")
    panel.set_ylabel("WER in %")
    panel.set_ylim(bottom=0)
    _legend(figure, panel)
    return figure
