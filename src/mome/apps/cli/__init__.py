"""The command line ``mome``: one module for each group of commands.

Nothing heavy is imported before a command needs it, so that ``mome --help`` answers at once.
"""

from mome.apps.cli.application import app, main

__all__ = ["app", "main"]
