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

from mome.encoders.base import AudioContext, z_normalize
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


@pytest.fixture(scope="module")
def long_encoder() -> WhisperEncoder:
    """It has a window of 3 s."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    return WhisperEncoder(WhisperConfig(**sizes, num_mel_bins=BINS, max_source_positions=150)).eval()


def inputs(seconds: list[float], context: AudioContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel frames of noise, a batch padded as the processor pads it, and its mask."""
    extractor = WhisperFeatureExtractor(feature_size=BINS, chunk_length=3)
    waves = [np.random.default_rng(round(100 * s)).standard_normal(round(16_000 * s)) for s in seconds]
    pairs = [log_mel(wave.astype(np.float32), extractor, context) for wave in waves]
    frames = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(mel.T) for mel, _ in pairs], batch_first=True)
    mask = torch.arange(frames.shape[1])[None] < torch.tensor([real for _, real in pairs])[:, None]
    return frames.transpose(1, 2), mask


@pytest.mark.parametrize("seconds", [2.0, 2.4, 3.0])
def test_silence_that_fills_the_window_gives_what_the_window_gives(long_encoder, seconds):
    with torch.no_grad():
        window = WhisperAudioEncoder(long_encoder, "window")(*inputs([seconds], "window"))
        silence = WhisperAudioEncoder(long_encoder, "clip+silence")(*inputs([seconds], "clip+silence"))
        clip = WhisperAudioEncoder(long_encoder, "clip")(*inputs([seconds], "clip"))
    assert silence.lengths.tolist() == window.lengths.tolist() == [round(50 * seconds)]
    torch.testing.assert_close(silence.frames, window.frames, atol=1e-5, rtol=0)
    assert seconds == 3 or (clip.frames - window.frames).abs().max() > 1e-3


@pytest.mark.parametrize("context", ["clip", "clip+silence"])
def test_a_clip_beside_a_longer_one_is_as_if_it_were_alone(long_encoder, context):
    seconds = [0.5, 2.9, 1.255, 1.7]
    encoder = WhisperAudioEncoder(long_encoder, context)
    with torch.no_grad():
        together = encoder(*inputs(seconds, context))
        for row, one in enumerate(seconds):
            alone = encoder(*inputs([one], context))
            length = int(16_000 * one) // 320
            assert together.lengths[row] == alone.lengths[0] == length
            torch.testing.assert_close(together.frames[row, :length], alone.frames[0], atol=1e-5, rtol=0)
            assert not together.frames[row, length:].any()


def test_silence_is_the_windows_and_goes_no_further(long_encoder):
    for seconds, heard in ((1.0, 200), (2.5, 300)):
        (silence, mask), (window, same) = inputs([seconds], "clip+silence"), inputs([seconds], "window")
        assert (silence.shape[2], mask.sum(), same.sum()) == (heard, round(100 * seconds), round(100 * seconds))
        torch.testing.assert_close(silence, window[..., :heard], atol=1e-6, rtol=0)
    with pytest.raises(MomeError, match=r"3\.1 s of audio exceed .* window of 3 s: cut"):
        inputs([3.1], "clip+silence")


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
