"""The command line ``mome``, with a module for each command.

Commands import what is slow to import when they run, so that ``mome --help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback even during imports."""
    try:
        from mome.cli.application import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def __getattr__(name: str) -> Any:
    """Import :data:`app` when it is first used."""
    if name == "app":
        from mome.cli.application import app

        return app
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
