"""``mome analyze``: what a trained model does, with a module for each command."""

from __future__ import annotations

import typer

analyze_app = typer.Typer(help="Measure what a trained model does: tables and figures fit for a paper.")

from mome.cli.analyze import attention as attention  # noqa: E402  registers its command
from mome.cli.analyze import experts as experts  # noqa: E402
from mome.cli.analyze import similarity as similarity  # noqa: E402
