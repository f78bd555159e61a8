"""``mome score``: word error rates of any system's transcripts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mome.cli.options import Data, Json, Normalize, Out, Split
from mome.cli.output import check_writable, note, result, results_table, to_json
from mome.errors import listed


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
    normalize: Normalize = "lower",
    out: Out = None,
    json: Json = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the samples of clips for the intervals.")] = 0,
) -> None:
    """Score transcripts of any system as mome evaluate scores its own, for the same table.

    Of the manifest only the columns id and text are needed, and split with --split; the clips themselves are
    not needed. Where the manifest has no text, every word of a transcript is an insertion. What is not known
    of a system (tokens, GFLOPs, RTF) is null in the JSON document.

    Example: mome score whisper.csv --data grid.csv --split test
    """
    if out is not None:
        check_writable(out, transcripts, data)
    from mome.evaluation.result import results_document, write_json
    from mome.evaluation.score import score as measure

    results = measure(transcripts, data, split, task=task, missing=missing, normalize=normalize, seed=seed)
    command = shlex.join(["mome", *sys.argv[1:]])
    document = results_document(results, command=command, model=None, data=str(data), seed=seed, normalize=normalize)
    if out is not None:
        write_json(out, document)
    result(to_json(document) if json else results_table(results))
    left_out = list(dict.fromkeys(failure.id for outcome in results for failure in outcome.failures))
    if left_out:
        note(f"left out {len(left_out)} clips without a transcript: {listed(left_out)}")
