"""``mome analyze``: what a trained model does, with a module for each command."""

from __future__ import annotations

# Each module registers its command when it is imported.
from mome.cli.analyze import attention, cost, experts, noise, rates, similarity, top_k  # noqa: F401
from mome.cli.analyze.app import analyze_app

__all__ = ["analyze_app"]
