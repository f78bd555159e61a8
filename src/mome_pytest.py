"""The option ``--golden DIR`` of this project's own tests.

pytest takes the folder in ``pytest --golden DIR`` for the tests' own, and never reads tests/conftest.py, unless the
option is known before: so it is a plugin. In other projects it adds nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the option where pytest runs in a checkout of this project."""
    checkout = Path.cwd()
    if (checkout / "src" / "mome_pytest.py").is_file():
        golden = checkout.parent / "shared" / "golden"
        parser.addoption("--golden", type=Path, default=golden, help="folder of golden vectors", metavar="DIR")
