"""The option ``--golden DIR`` of this project's tests.

pytest must know the option before it reads pyproject.toml, or it takes the DIR in ``pytest --golden DIR`` for the
folder of the tests and looks for pyproject.toml there. Only installed plugins are known so early, so ``make install``
installs this one, apart from the package, whose users do not need it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--golden", type=Path, default=DEFAULT, help="folder of golden vectors", metavar="DIR")
