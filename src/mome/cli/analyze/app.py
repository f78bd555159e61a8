"""The application that the modules of this folder register their commands with."""

from __future__ import annotations

import typer

analyze_app = typer.Typer(help="Measure what a trained model does: tables and figures fit for a paper.")
