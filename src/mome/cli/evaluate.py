"""``mome evaluate``: word error rates over the clips of a manifest."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import (
    Beams,
    Compat,
    Data,
    Dtype,
    Json,
    Model,
    Noise,
    Normalize,
    Out,
    Split,
    TopK,
    beam_search,
    check_compat,
    check_noise,
    check_top_k,
    load_model,
    read_config,
)
from mome.cli.output import (
    check_writable,
    failure_lines,
    note,
    progress,
    quiet,
    result,
    results_table,
    to_json,
)
from mome.errors import MomeError
from mome.files import write_text
from mome.rates import TASKS, Rates, RateSet, Task

if TYPE_CHECKING:
    from mome.evaluation.result import Result

SOME_FAILED, ALL_FAILED = 1, 2
_LISTED = 10


def evaluate(
    data: Data,
    split: Split = None,
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
            help="avsr listens and reads lips, asr listens, vsr reads lips; of the rates, those that the task does not "
            "use are left out. Repeatable. Default: what the rates say, or avsr.",
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
    out: Out = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write the transcript of each clip to this file; 'mome score' reads it."),
    ] = None,
    json: Json = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep sound and mouth of the clips there: the next run starts at once."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this number of clips, from the first on.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips transcribed together.")] = 8,
    beams: Beams = None,
    top_k: TopK = None,
    normalize: Normalize = "lower",
    compat: Compat = None,
    dtype: Dtype = "float32",
    seed: Annotated[
        int,
        typer.Option(min=0, help="Draws a clip's stretch of noise, together with its id, and the intervals."),
    ] = 0,
) -> None:
    """Measure word error rates over the clips of a manifest, by task, rates and noise.

    The interval is that of 95 % of samples of the clips drawn with replacement. RTF is processing time
    per second of speech, without reading the files. A clip that cannot be transcribed is left out of the
    figures and listed at the end, and the exit code is 1. Ctrl-C ends with the figures of the clips that are done.

    Example: mome evaluate --data grid.csv --split test --snr clean --snr 0 --noise babble.flac
    """
    given = list(dict.fromkeys(map(Rates.parse, rates or ())))
    tasks = [_task(text) for text in task or ()]
    levels = [_level(text) for text in snr or ["clean"]]
    check_noise(noise, levels)
    for path, other in ((out, transcripts), (transcripts, out)):
        if path is not None:
            check_writable(path, data, noise, other)
    if cache is not None and cache.is_file():
        raise MomeError(f"--cache {cache} is a file: give a folder")
    quiet()
    from mome.data.manifests import read_manifest
    from mome.data.stores import ClipStore
    from mome.evaluation.evaluate import Evaluation
    from mome.evaluation.result import make_conditions, results_document, to_csv, write_json
    from mome.media.noise import load_noise

    rows = read_manifest(data, split, silence=True)[:limit]
    config = read_config(model)
    check_compat(compat, model, config)
    check_top_k(top_k, model, config)
    conditions = make_conditions(_rates(config.rate_set, given, tasks), levels)
    sound = None if noise is None else load_noise(noise)
    transcriber = load_model(model, compat, dtype)
    evaluated = {condition.task for condition in conditions}
    store = None if cache is None else ClipStore(cache, audio=evaluated != {"vsr"}, video=evaluated != {"asr"})
    evaluation = Evaluation(
        transcriber,
        rows,
        conditions,
        noise=sound,
        seed=seed,
        batch_size=batch,
        store=store,
        normalize=normalize,
        active_experts=top_k,
        **beam_search(beams),
    )
    interruption = None
    try:
        with progress("transcribing") as bar:
            evaluation.run(bar)
    except KeyboardInterrupt as stop:
        interruption = stop
    results = evaluation.results()
    command = shlex.join(["mome", *sys.argv[1:]])
    document = results_document(
        results,
        command=command,
        model=model,
        data=str(data),
        seed=seed,
        normalize=normalize,
        interrupted=interruption is not None,
        top_k=top_k,
    )
    # Print before writing files, because the figures took hours and a disk may be full.
    result(to_json(document) if json else results_table(results))
    if out is not None:
        write_json(out, document)
    if transcripts is not None:
        write_text(transcripts, to_csv(results))
    if interruption is not None:
        raise interruption
    if transcriber.model.config.description:
        note(transcriber.model.config.description)
    raise typer.Exit(_report_failures(results))


def _task(text: str) -> Task:
    for task in TASKS:
        if text.strip().lower() == task:
            return task
    raise MomeError(f"--task {text} is unknown: choose from {', '.join(TASKS)}")


def _level(text: str) -> float | None:
    """Read a value of ``--snr``, in dB; ``None`` for clean speech."""
    if text.strip().lower() == "clean":
        return None
    try:
        return float(text)
    except ValueError:
        raise MomeError(f"--snr {text} is not readable: give a number of dB, such as 0 or -5, or clean") from None


def _rates(rate_set: RateSet, given: Sequence[Rates], tasks: Sequence[Task]) -> list[Rates]:
    """The rates to evaluate, without repetition, all of them in the model's rate set."""
    if given and tasks:
        chosen = [rate.for_task(task) for task in tasks for rate in given]
    elif given:
        chosen = list(given)
    elif tasks:
        chosen = list(rate_set.rates(tasks))
    else:
        chosen = rate_set.main_rates()
    for task in tasks:
        if not any(rate.task == task for rate in chosen):
            raise MomeError(f"the model cannot do {task}: it has {rate_set}")
    return [rate_set.check(rate) for rate in dict.fromkeys(chosen)]


def _report_failures(results: Sequence[Result]) -> int:
    """List the clips that failed, grouped by reason; returns the exit code."""
    failures = list(dict.fromkeys(failure for outcome in results for failure in outcome.failures))
    if not failures:
        return 0
    clips = len({failure.id for failure in failures})
    note(f"{clips} clip{'s' * (clips > 1)} could not be transcribed under some condition:")
    lines = failure_lines((f"clip {failure.id}", failure.error) for failure in failures)
    for line in lines[:_LISTED]:
        note(line)
    if len(lines) > _LISTED:
        note(f"and {len(lines) - _LISTED} more: the JSON document lists all")
    return SOME_FAILED if any(outcome.clips for outcome in results) else ALL_FAILED
