"""Fixtures of the tests that train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy import toy_backbones, toy_corpus


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy corpus in ``data`` and its backbones in ``backbones``; only to be read."""
    folder = tmp_path_factory.mktemp("toy")
    toy_corpus(folder / "data")
    toy_backbones(folder / "backbones")
    return folder
