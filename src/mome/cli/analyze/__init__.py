"""``mome analyze``: what a trained model does, with a module for each command."""

from __future__ import annotations

import typer

analyze_app = typer.Typer(help="Measure what a trained model does: tables and figures fit for a paper.")

from mome.cli.analyze import top_k  # noqa: E402, F401
