"""What the analyses have in common: their folder of files and what they print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome.cli.output import note, result, to_json
from mome.errors import MomeError

if TYPE_CHECKING:
    from mome.analysis.findings import Findings

Folder = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Write JSON, CSV and figures (PNG, PDF) to this folder."),
]


def check_folder(out: Path | None) -> None:
    """Check before the work that figures can be drawn and written.

    Raises:
        MomeError: the folder is a file, or Matplotlib is not installed.
    """
    if out is None:
        return
    from mome.analysis.figures import drawing

    if out.exists() and not out.is_dir():
        raise MomeError(f"--out {out} is a file: give a folder")
    with drawing():
        pass


def show(findings: Findings, text: str, *, out: Path | None, json: bool, model: str, data: str, seed: int) -> None:
    """Print the findings, as ``text`` or as JSON, and write their files.

    They are printed first, because the figures took long and a disk may be full.
    """
    from mome.evaluation.result import run_document

    run = run_document(command=shlex.join(["mome", *sys.argv[1:]]), model=model, data=data, seed=seed)
    result(to_json({**run, **findings.document}) if json else text)
    if out is not None:
        for file in findings.write(out, run):
            note(f"wrote {file}")
