"""The command line ``mome``: one module for each group of commands.

Nothing heavy is imported before a command needs it, so that ``mome --help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback from the first import on."""
    try:
        from mome.cli.application import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def __getattr__(name: str) -> Any:
    """The application."""
    if name == "app":
        from mome.cli.application import app

        return app
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
