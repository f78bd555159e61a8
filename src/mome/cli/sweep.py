"""``mome sweep``: one recipe with every combination of changes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mome.cli.options import Json
from mome.cli.output import note, quiet, result, table, to_json

FAILED = 1


def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A YAML file: base, fixed, rows, grid, seeds, evaluate, output."),
    ],
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Trainings at once, each in a process of its own.")] = 1,
    json: Json = False,
) -> None:
    """Train a recipe with every combination of changes and every seed, evaluate, and compare with the first row.

    What is done is skipped, and what was interrupted goes on, at the same command. The loss is the cross-entropy of the
    transcripts' tokens, in nats. A change is that to the first row, with the 95 % interval of the paired difference
    over clips and seeds drawn with replacement. If a run failed, the exit code is 1.

    Example: mome sweep ablations.yaml --jobs 2
    """
    quiet()
    from mome.analysis.sweep import read_sweep, run_sweep, tabulate
    from mome.evaluation.result import run_document

    plan = read_sweep(file)
    failed = run_sweep(plan, jobs, note)
    findings = tabulate(plan)
    run = run_document(command=shlex.join(["mome", *sys.argv[1:]]), model=None, data=plan.evaluate["manifest"], seed=0)
    rows = [
        (
            *(cell["row"], cell["rates"], str(cell["seeds"])),
            *(_value(cell["wer"], 100, ".1f"), _change(cell, "change", 100, "+.1f")),
            *(_value(cell["loss"], 1, ".3f"), _change(cell, "loss_change", 1, "+.3f")),
        )
        for cell in findings.document["results"]
    ]
    header = ("row", "rates", "seeds", "WER %", "WER change (95 %)", "loss", "loss change (95 %)")
    result(to_json({**run, **findings.document}) if json else table(header, rows, left=2))
    for written in findings.write(plan.output, run):
        note(f"wrote {written}")
    raise typer.Exit(FAILED if failed else 0)


def _value(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _change(cell: dict[str, Any], name: str, factor: float, form: str) -> str:
    if cell[name] is None:
        return "-"
    change, low, high = (format(factor * value, form) for value in (cell[name], *cell[f"{name}_ci95"]))
    return f"{change} ({low} to {high})"
