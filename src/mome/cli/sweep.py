"""``mome sweep``: one recipe with every combination of changes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

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

    What is done is skipped, and what was interrupted goes on, at the same command. The change is that to the first row,
    with the 95 % interval of the paired difference over clips and seeds drawn with replacement. If a run failed, the
    exit code is 1.

    Example: mome sweep ablations.yaml --jobs 2
    """
    quiet()
    from mome.analysis.sweep import read_sweep, run_sweep, tabulate
    from mome.evaluation.result import run_document

    plan = read_sweep(file)
    failed = run_sweep(plan, jobs, note)
    findings = tabulate(plan)
    run = run_document(command=shlex.join(["mome", *sys.argv[1:]]), model=None, data=plan.evaluate["manifest"], seed=0)
    rows = []
    for cell in findings.document["results"]:
        low, high = cell["change_ci95"] or (0, 0)
        change = (
            "-" if cell["change"] is None else f"{100 * cell['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        )
        wer = "-" if cell["wer"] is None else f"{100 * cell['wer']:.1f}"
        rows.append((cell["row"], cell["rates"], str(cell["seeds"]), wer, change))
    header = ("row", "rates", "seeds", "WER %", "change (95 %)")
    result(to_json({**run, **findings.document}) if json else table(header, rows, left=2))
    for written in findings.write(plan.output, run):
        note(f"wrote {written}")
    raise typer.Exit(FAILED if failed else 0)
