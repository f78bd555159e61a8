"""``mome score``: word error rates of any system's transcripts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mome.cli.options import Data, Json, Normalize, Out, Split
from mome.cli.output import check_writable, note, result, results_table, to_json
from mome.errors import MomeError, listed


def score(
    transcripts: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="A CSV file with the columns id and text. If it has system, task, rates or snr_db (none: clean) "
            "too, each combination is scored by itself.",
            show_default=False,
        ),
    ],
    data: Data,
    split: Split = None,
    task: Annotated[
        Literal["avsr", "asr", "vsr"] | None,
        typer.Option(help="Task of transcripts without a column task or rates.", show_default=False),
    ] = None,
    missing: Annotated[
        Literal["error", "empty", "skip"],
        typer.Option(
            help="What a clip without a transcript is: an error, an empty transcript, or left out of the figures."
        ),
    ] = "error",
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Transcripts of a system to compare with, on the same clips. Each figure is compared with that of the "
            "same task, rates and noise, else with the only one of that task and noise.",
            show_default=False,
        ),
    ] = None,
    normalize: Normalize = "lower",
    out: Out = None,
    json: Json = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the samples of clips for the intervals.")] = 0,
) -> None:
    """Score transcripts of any system as mome evaluate scores its own, for the same table.

    Of the manifest only the columns id and text are needed, and split with --split; the clips themselves are
    not needed. Where the manifest has no text, every word of a transcript is an insertion. What is not known
    of a system (tokens, GFLOPs, RTF) is null in the JSON document. With --control the differences of the word error
    rates come with 95 % intervals of clips drawn for both systems together.

    Examples: mome score whisper.csv --data grid.csv --split test
    mome score ours.csv --control whisper.csv --data grid.csv --split test
    """
    if out is not None:
        check_writable(out, transcripts, data, control)
    from mome.evaluation.result import change, results_document, write_json
    from mome.evaluation.score import controls
    from mome.evaluation.score import score as measure

    results = measure(transcripts, data, split, task=task, missing=missing, normalize=normalize, seed=seed)
    command, changes = shlex.join(["mome", *sys.argv[1:]]), None
    document = results_document(results, command=command, model=None, data=str(data), seed=seed, normalize=normalize)
    if control is not None:
        others = measure(control, data, split, task=task, missing=missing, normalize=normalize, seed=seed)
        pairs = list(zip(results, controls(results, others), strict=True))
        if all(other is None for _, other in pairs):
            raise MomeError(
                f"{control} has no result to compare those of {transcripts} with: give one of the same task, rates and "
                "noise, or only one of a task and noise"
            )
        changes = [None if other is None else change([(ours, other)], seed, normalize) for ours, other in pairs]
        document["control"] = str(control)
        for cell, found in zip(document["results"], changes, strict=True):
            cell["change"] = None if found is None else found.wer
            cell["change_ci95"] = None if found is None else list(found.ci95)
    if out is not None:
        write_json(out, document)
    result(to_json(document) if json else results_table(results, changes))
    left_out = list(dict.fromkeys(failure.id for outcome in results for failure in outcome.failures))
    if left_out:
        note(f"left out {len(left_out)} clips without a transcript: {listed(left_out)}")
