"""``mome report``: one HTML page from a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mome.cli.output import check_writable, result
from mome.files import write_text


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Results of evaluate, analyze or sweep, or of a training.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="HTML", help="The page. Default: report.html in the folder.")
    ] = None,
) -> None:
    """Make one HTML page of the results in a folder, and print where it is.

    Tables, figures, configurations, versions and commands are all inside the page: it opens without network.

    Example: mome report figures
    """
    from mome.analysis.report import report as page

    text = page(folder)
    target = out or folder / "report.html"
    check_writable(target)
    write_text(target, text)
    result(str(target))
