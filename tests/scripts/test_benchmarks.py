"""The benchmarks' own arithmetic, on tiny models."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from benchmarks import encoders as module
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.encoders.whisper import WhisperAudioEncoder


@pytest.fixture
def encoders() -> module.Encoders:
    """A random encoder with a window of 3 s."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    model = WhisperEncoder(WhisperConfig(**sizes, num_mel_bins=8, max_source_positions=150)).eval()
    made = object.__new__(module.Encoders)
    made.window, made.clip = WhisperAudioEncoder(model, "window"), WhisperAudioEncoder(model, "clip")
    made.extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=3)
    made.plain = copy.copy(made.extractor)
    made.plain.do_normalize = False
    return made


@torch.inference_mode()
def test_silence_that_fills_the_window_is_no_difference(encoders):
    wave = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    found = {row["silence"]: row for row in module.differences(encoders, [wave])}
    assert list(found) == [0, 0.5, 1, 2, 2.5]
    for silence in (1, 2, 2.5):
        assert found[silence]["cosine_p10"] == pytest.approx(1, abs=1e-5)
    assert found[0]["cosine_mean"] < found[1]["cosine_mean"] - 1e-6


@torch.inference_mode()
def test_ratios_are_those_of_one_turn(encoders, monkeypatch):
    seconds = iter(np.arange(1, 10_000, dtype=float))
    monkeypatch.setattr(module, "timed", lambda call, *arguments: (next(seconds), call(*arguments)))
    monkeypatch.setattr(module, "SECONDS", (1,))
    first, *_, last = module.times(encoders, np.ones(16_000, np.float32))
    assert (first["silence"], first["window_over_this"]) == (None, 1)
    turn = 2 * len(module.SILENCES)  # calls, of which every second encodes
    starts = [turn * (number + 1) + 2 for number in range(module.TURNS)]
    ratios = [start / (start + turn - 2) for start in starts]
    assert last["window_over_this_range"] == pytest.approx([min(ratios), max(ratios)])
    assert last["encoder_seconds"] == np.median([start + turn - 2 for start in starts])
