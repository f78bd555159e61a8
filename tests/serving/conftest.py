"""The tests' server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripts.serving.server import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of mome-tiny that all tests may ask."""
    log = tmp_path_factory.mktemp("serve") / "log"
    options = ("--readers", "2", "--max-mb", "2", "--max-seconds", "60", "--max-pixels", "40000")
    with serving(log, *options, environment={"OMP_NUM_THREADS": "1"}) as found:
        yield found
