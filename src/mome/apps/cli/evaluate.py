"""``mome evaluate``: word error rates over the clips of a manifest."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome.apps.cli.options import (
    BUNDLED_NAME,
    Beams,
    Json,
    Model,
    Noise,
    Seed,
    check_noise,
    load_model,
    main_rates,
    parse_rates,
    read_config,
)
from mome.apps.cli.output import gflops, note, progress, quiet, result, table, to_json
from mome.errors import MomeError
from mome.rates import TASKS, RateGrid, Rates, Task

if TYPE_CHECKING:
    from mome.evaluation.result import Result

SOME_FAILED, ALL_FAILED = 1, 2
_LISTED = 10


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "-d",
            metavar="MANIFEST",
            help="A CSV file with the columns id, path, split and text; 'mome data' makes one.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Only the clips of this split. Default: all clips.", show_default=False)
    ] = None,
    model: Model = BUNDLED_NAME,
    rates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,V",
            help="Audio and video rate, such as 4,2. Repeatable. Default: all of the model's.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="avsr|asr|vsr",
            help="avsr listens and reads lips, asr listens, vsr reads lips; rates are cut down to what the "
            "task uses. Repeatable. Default: what the rates say, or avsr.",
            show_default=False,
        ),
    ] = None,
    snr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="clean|DB",
            help="Speech to noise in dB (0: as loud as the speech), or clean. Repeatable. Default: clean.",
        ),
    ] = None,
    noise: Noise = None,
    out: Annotated[Path | None, typer.Option(metavar="JSON", help="Write the results to this file as well.")] = None,
    json: Json = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many clips.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips transcribed together.")] = 8,
    beams: Beams = 1,
    seed: Seed = 0,
) -> None:
    """Measure word error rates over the clips of a manifest, by task, rates and noise.

    The interval is that of 95 % of samples of the clips drawn with replacement. RTF is processing time
    per second of speech, without reading the files. A clip that cannot be transcribed is left out of the
    figures and listed at the end, and the exit code is 1.

    Example: mome evaluate --data grid.csv --split test --snr clean --snr 0 --noise babble.flac
    """
    given = parse_rates(rates or ())
    tasks = [_task(text) for text in task or ()]
    levels = [_level(text) for text in snr or ["clean"]]
    check_noise(noise, levels)
    if out is not None and out.is_dir():
        raise MomeError(f"--out {out} is a folder: give the name of a file to write")
    if out is not None and not os.access(out.absolute().parent, os.W_OK):
        raise MomeError(f"--out {out} cannot be written: {out.absolute().parent} is missing or not writable")
    quiet()
    from mome.evaluation.evaluate import evaluate as measure
    from mome.evaluation.report import results_document, write_json
    from mome.evaluation.result import make_conditions
    from mome.media.noise import load_noise
    from mome.training.manifest import read_manifest

    rows = read_manifest(data, split)[:limit]
    conditions = make_conditions(_rates(read_config(model).grid, given, tasks), levels)
    sound = None if noise is None else load_noise(noise)
    transcriber = load_model(model)
    with progress("transcribing") as bar:
        results = measure(
            transcriber,
            rows,
            conditions,
            noise=sound,
            seed=seed,
            batch_size=batch,
            progress=bar,
            num_beams=beams,
        )
    command = shlex.join(["mome", *sys.argv[1:]])
    document = results_document(results, command=command, model=model, data=str(data), seed=seed)
    if out is not None:
        write_json(out, document)
    result(to_json(document) if json else _readable(results))
    if transcriber.model.config.description:
        note(transcriber.model.config.description)
    raise typer.Exit(_report_failures(results))


def _task(text: str) -> Task:
    for task in TASKS:
        if text.strip().lower() == task:
            return task
    raise MomeError(f"--task {text} is unknown: choose from {', '.join(TASKS)}")


def _level(text: str) -> float | None:
    """A ratio in dB; ``None`` for clean speech."""
    if text.strip().lower() == "clean":
        return None
    try:
        return float(text)
    except ValueError:
        raise MomeError(f"--snr {text} is not readable: give a number of dB, such as 0 or -5, or clean") from None


def _rates(grid: RateGrid, given: Sequence[Rates], tasks: Sequence[Task]) -> list[Rates]:
    """The rates to evaluate, each of them in the model's grid, each once."""
    if given and tasks:
        chosen = [one.for_task(task) for task in tasks for one in given]
    elif given:
        chosen = list(given)
    elif tasks:
        chosen = list(grid.rates(tasks))
    else:
        chosen = main_rates(grid)
    for task in tasks:
        if not any(one.task == task for one in chosen):
            raise MomeError(f"the model cannot do {task}: it has {grid}")
    return [grid.check(one) for one in dict.fromkeys(chosen)]


def _readable(results: Sequence[Result]) -> str:
    header = (
        "task",
        "rates",
        "SNR dB",
        "WER %",
        "95 % interval",
        "words",
        "clips",
        "tokens",
        "GFLOPs",
        "RTF",
    )
    order = [TASKS.index(one.condition.task) for one in results]
    rows = [_cells(one) for _, one in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]
    return table(header, rows, left=2, last_left=False)


def _cells(one: Result) -> tuple[str, ...]:
    condition = one.condition
    snr = "clean" if condition.snr_db is None else f"{condition.snr_db:g}"
    where = (condition.task, str(condition.rates), snr)
    if one.wer is None or one.ci95 is None or one.tokens_mean is None or one.tflops_mean is None or one.rtf is None:
        return (*where, *"-" * 2, "0", "0", *"-" * 3)
    low, high = one.ci95
    return (
        *where,
        f"{100 * one.wer:.1f}",
        f"{100 * low:.1f} - {100 * high:.1f}",
        str(one.errors.words),
        str(one.clips),
        f"{one.tokens_mean:.1f}",
        gflops(one.tflops_mean),
        f"{one.rtf:.3f}",
    )


def _report_failures(results: Sequence[Result]) -> int:
    """List the clips that failed, each with its reason once; returns the exit code."""
    failures = list(dict.fromkeys(failure for one in results for failure in one.failures))
    if not failures:
        return 0
    clips = len({failure.id for failure in failures})
    note(f"{clips} clip{'s' * (clips > 1)} could not be transcribed under every condition:")
    for failure in failures[:_LISTED]:
        note(f"mome: clip {failure.id}: {failure.error}")
    if len(failures) > _LISTED:
        note(f"and {len(failures) - _LISTED} more: the JSON document lists all")
    return SOME_FAILED if any(one.clips for one in results) else ALL_FAILED
