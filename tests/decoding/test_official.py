"""Where the official arithmetic and bfloat16 meet: only the transcriber knows of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mome
from mome.media import Clip
from mome.model.compat import official_log_mel
from tests.decoding.window import window_model

CLIP = Clip((0.1 * np.random.default_rng(0).standard_normal(17_920)).astype(np.float32), None, 1.12)


@pytest.fixture(scope="module")
def published(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can follow the official arithmetic."""
    return window_model(tiny_model, tmp_path_factory.mktemp("published") / "model")


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_waveform_is_rounded_only_where_the_official_arithmetic_runs_in_bfloat16(
    published, monkeypatch, compat, dtype
):
    transcriber = mome.load(published, compat=compat, dtype=dtype)
    model, processor = transcriber.model, transcriber.processor
    given: dict[str, Tensor] = {}
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda **inputs: given.update(inputs) or encode(**inputs))
    assert transcriber.transcribe(CLIP, "4,-", max_new_tokens=2).text
    rounded, plain = official_log_mel(CLIP.audio, processor.feature_extractor), processor.audio(CLIP.audio)[0]
    assert not np.array_equal(rounded, plain)
    expected = rounded if (compat, dtype) == ("official", "bfloat16") else plain
    assert torch.equal(given["input_features"][0].cpu(), torch.from_numpy(expected))
    assert given["input_features_mask"].sum() == 2 * (55 if compat else 56)
