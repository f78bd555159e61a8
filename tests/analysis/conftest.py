"""A tiny recogniser whose clips are random, so that no file is read."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import mome
from mome.data.manifests import ManifestRow
from mome.decoding import Transcriber
from mome.media import Clip


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Transcriber:
    return mome.load(tiny_model)


@pytest.fixture
def transcriber(loaded: Transcriber, monkeypatch: pytest.MonkeyPatch) -> Transcriber:
    """It may be changed; the clip at path ``N`` has 1 + N / 10 seconds."""
    own = Transcriber(copy.deepcopy(loaded.model), loaded.processor, "tiny")

    def load(path: Path, rates: object, excerpt: object = None) -> Clip:
        number = int(path.name)
        rng = np.random.default_rng(number)
        seconds = 1 + number / 10
        audio = (0.1 * rng.standard_normal(round(16_000 * seconds))).astype(np.float32)
        return Clip(audio, rng.integers(0, 256, (round(25 * seconds), 96, 96), dtype=np.uint8), seconds, path, ())

    monkeypatch.setattr(own, "load_clip", load)
    return own


@pytest.fixture
def rows() -> list[ManifestRow]:
    """Three clips of different lengths."""
    texts = ("bin blue at f two now", "lay red by a one soon", "set white in b six please")
    return [ManifestRow(str(number), Path(str(number)), "test", text) for number, text in enumerate(texts)]
