"""The option ``--golden DIR`` of this project's tests.

pyproject.toml names this plugin to pytest, but that is not enough: in ``pytest --golden DIR``, pytest takes DIR for
the folder of the tests, and looks for pyproject.toml there, unless it knows the option before. Plugins that are
installed are known, so ``make install`` installs this one, by itself: in the package it would be in everybody's tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--golden", type=Path, default=DEFAULT, help="folder of golden vectors", metavar="DIR")
