"""Options and fixtures for all rooms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=SHARED / "golden", help="folder of golden vectors")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Load one golden case: ``state``, ``inputs`` and ``outputs`` as dicts of tensors, and the metadata."""
    import json

    from safetensors.torch import load_file

    def load(case: str):
        folder: Path = request.config.getoption("--golden")
        if not (folder / f"{case}.safetensors").exists():
            pytest.skip(f"golden case {case} is not in {folder}")
        tensors = load_file(folder / f"{case}.safetensors")
        parts: tuple[dict, ...] = tuple(
            {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            for prefix in ("state.", "in.", "out.")
        )
        return (*parts, json.loads((folder / f"{case}.json").read_text()))

    return load


@pytest.fixture
def shared() -> Path:
    """The folder of shared data beside the checkout; tests that want it skip where it is absent."""
    if not SHARED.exists():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random recogniser with all its parts; only to be read."""
    from tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")
