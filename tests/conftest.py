"""Options and fixtures for all rooms."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.checkpoints.fake_hub import hub  # noqa: F401  a fixture
from tests.media.server import web  # noqa: F401  a fixture

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all tests are collected
    config.addinivalue_line("markers", "speech: where speech is, is really looked for")
    config.addinivalue_line(
        "markers", "golden(family): run with the fixture golden as each case in --golden whose name begins with family"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no process is left with one of them when the others have nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Thousands of tests and the libraries stay to the end: no collection of garbage looks at them again."""
    gc.freeze()
    gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    folder: Path = metafunc.config.getoption("--golden")
    found = sorted(path for path in folder.glob(f"{marker.args[0]}*.safetensors") if path.with_suffix(".json").exists())
    cases = [pytest.param(path, id=path.stem) for path in found]
    none = pytest.param(None, id="none", marks=pytest.mark.skip(f"no golden case {marker.args[0]}* is in {folder}"))
    metafunc.parametrize("golden", cases or [none], indirect=True)


@pytest.fixture(autouse=True)
def any_sound_is_speech(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests' sounds are noise: speech is heard in every sound, except in tests marked ``speech``."""
    if request.node.get_closest_marker("speech") is None:
        from mome.media import parts, speech

        monkeypatch.setattr(speech.SpeechDetector, "of", _always_speech)
        monkeypatch.setattr(parts, "deafness", lambda wave, frames: np.zeros(frames, bool))


def _always_speech(self: Any, wave: np.ndarray) -> np.ndarray:
    """One for each frame, as many as there are."""
    waiting = getattr(self, "waiting", 0) + len(wave)
    self.waiting = waiting % 512
    return np.ones(waiting // 512, np.float32)


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns often, so that two are always inside the model."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


class Golden(NamedTuple):
    """One golden case: the original's weights, what it was given and what it made of that, and how it was built."""

    state: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    config: dict[str, Any]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The case that a test marked ``golden(family)`` runs on; one test for each case of the family."""
    from safetensors.torch import load_file

    path: Path = request.param
    tensors = load_file(path)
    state, inputs, outputs = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("state.", "in.", "out.")
    )
    return Golden(state, inputs, outputs, json.loads(path.with_suffix(".json").read_text()).get("config", {}))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
