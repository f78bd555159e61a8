from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.encoders.base import z_normalize
from mome.encoders.whisper import WhisperAudioEncoder, log_mel
from mome.errors import MomeError

BINS, WINDOW = 8, 40  # mel bins, and tokens in the window
SECONDS = WINDOW // 50 + 1


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(
        WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            num_mel_bins=BINS,
            max_source_positions=WINDOW,
        )
    ).eval()


def batch(lengths: list[int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random mel frames, right-padded with loud rubbish that must not matter, and their mask."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(len(lengths), BINS, size, generator=generator)
    return frames, torch.arange(size)[None] < torch.tensor(lengths)[:, None]


def test_window_context_is_the_plain_encoder_trimmed(encoder):
    frames, mask = batch([2 * WINDOW, 31, 2], 2 * WINDOW)
    with torch.no_grad():
        plain = encoder(frames).last_hidden_state
        ours = WhisperAudioEncoder(encoder, "window")(frames, mask)
    assert ours.lengths.tolist() == [WINDOW, 15, 1]
    for row, length in enumerate(ours.lengths.tolist()):
        assert torch.equal(ours.frames[row, :length], plain[row, :length])
        assert not ours.frames[row, length:].any()


def test_clip_context_is_the_plain_encoder_on_a_clip_that_fills_the_window(encoder):
    frames, mask = batch([2 * WINDOW, 2 * WINDOW], 2 * WINDOW)
    with torch.no_grad():
        plain = encoder(frames).last_hidden_state
        ours = WhisperAudioEncoder(encoder, "clip")(frames, mask)
    torch.testing.assert_close(ours.frames, plain, atol=1e-5, rtol=0)


def test_clip_context_does_not_see_the_rest_of_the_window(encoder):
    frames, mask = batch([30], 2 * WINDOW)
    with torch.no_grad():
        window = WhisperAudioEncoder(encoder, "window")(frames, mask)
        clip = WhisperAudioEncoder(encoder, "clip")
        padded, bare = clip(frames, mask), clip(frames[..., :30], mask[:, :30])
    torch.testing.assert_close(padded.frames, bare.frames, atol=1e-6, rtol=0)
    assert (padded.frames - window.frames).abs().max() > 1e-2


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(2, 2 * WINDOW), min_size=2, max_size=4))
def test_clip_context_does_not_depend_on_the_batch(encoder, lengths):
    frames, mask = batch(lengths, max(lengths))
    model = WhisperAudioEncoder(encoder, "clip")
    with torch.no_grad():
        together = model(frames, mask)
        assert together.lengths.tolist() == [length // 2 for length in lengths]
        for row, length in enumerate(lengths):
            alone = model(frames[row : row + 1, :, :length], mask[row : row + 1, :length])
            ours = together.frames[row, : length // 2]
            torch.testing.assert_close(ours, alone.frames[0], atol=1e-5, rtol=0)
            assert not together.frames[row, length // 2 :].any()


def test_golden_whisper_trim(request, encoder):
    """Our count is the exact ⌊samples / 320⌋; the originals kept at least 25 tokens."""
    path: Path = request.config.getoption("--golden") / "whisper-trim.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    extractor = WhisperFeatureExtractor(feature_size=BINS)
    for samples, theirs in json.loads(path.read_text())["exact_floor"].items():
        mel, frames = log_mel(np.ones(int(samples), np.float32), extractor, "window")
        assert mel.shape == (BINS, 3000)
        lengths = (torch.arange(3000)[None] < frames).sum(1) // 2
        assert lengths.item() == int(samples) // 320
        assert max(lengths.item(), 25) == theirs


def test_z_normalize_in_closed_form():
    wave = np.array([1, 3, 5, 7], np.float32)
    np.testing.assert_allclose(z_normalize(wave), (wave - 4) / np.sqrt(5 + 1e-8), rtol=1e-6)
    assert not z_normalize(np.full(9, 0.3, np.float32)).any()
    assert z_normalize(wave).dtype == np.float32


def test_log_mel_contexts_loudness_and_window():
    extractor = WhisperFeatureExtractor(feature_size=BINS, chunk_length=SECONDS)
    wave = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    clip, frames = log_mel(wave, extractor, "clip")
    window, same = log_mel(wave, extractor, "window")
    assert clip.shape == (BINS, 31)
    assert window.shape == (BINS, 100 * SECONDS)
    assert frames == same == 31
    np.testing.assert_allclose(log_mel(0.01 * wave + 0.2, extractor, "clip")[0], clip, atol=2e-3)
    with pytest.raises(MomeError, match=r"1\.1 s of audio exceed .* window of 1 s: cut"):
        log_mel(np.ones(17600, np.float32), extractor, "clip")
    full, frames = log_mel(np.ones(16000 * SECONDS, np.float32), extractor, "clip")
    assert full.shape[1] == frames == 100 * SECONDS
