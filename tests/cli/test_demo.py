from __future__ import annotations

import json

import numpy as np

from mome.cli.demo import SHIPPED
from mome.media import load_clip
from mome.media.noise import speech_shaped_noise
from tests.tiny import AUDIO_RATES, VIDEO_RATES

PAIRS = [f"{audio},{video}" for audio in AUDIO_RATES for video in VIDEO_RATES]


def test_table(run, tiny_model):
    result = run("demo", "--model", tiny_model)
    assert result.exit_code == 0
    assert 'said:  "bin blue at f two now"' in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(("clean", "0 dB"))]
    assert [row[1] for row in rows[:4]] == PAIRS
    assert [row[2] for row in rows[4:]] == PAIRS
    assert result.stderr == "the tests' model is a demonstration model: its weights are random\n"


def test_json(run, tiny_model):
    found = json.loads(run("demo", "--model", tiny_model, "--json", "--snr", "-5").stdout)
    assert found["text"] == "bin blue at f two now"
    assert [(one["snr_db"], one["rates"]) for one in found["results"]] == [
        (snr, rates) for snr in (None, -5.0) for rates in PAIRS
    ]
    assert all(one["wer"] >= 0 and one["tokens"]["total"] > 0 for one in found["results"])


def test_a_clip_of_the_users_own(run, refused, tiny_model, clips):
    found = json.loads(run("demo", clips / "mute.mkv", "--model", tiny_model, "--json").stdout)
    assert [(one["snr_db"], one["rates"], one["wer"]) for one in found["results"]] == [
        (None, "-,2", None),
        (None, "-,5", None),
    ]
    assert "--text" in refused("demo", "--text", "bin blue")
    assert "text.mp4" in refused("demo", clips / "text.mp4", "--model", tiny_model)


def test_the_shipped_clip_is_small_and_a_mouth_already():
    assert (SHIPPED / "clip.mp4").stat().st_size < 60_000
    clip = load_clip(SHIPPED / "clip.mp4")
    assert clip.audio is not None
    assert clip.mouth is not None
    assert clip.warnings == ()


def test_noise_has_the_spectrum_of_the_speech():
    rng = np.random.default_rng(0)
    low = np.convolve(rng.standard_normal(32_000), np.ones(16) / 16, "same").astype(np.float32)
    noise = speech_shaped_noise(low, np.random.default_rng(1))
    assert noise.shape == (160_000,)
    assert noise.dtype == np.float32

    def spectrum(wave: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(wave[: len(wave) // 512 * 512].reshape(-1, 512))) ** 2
        bands = power.mean(0)[1:257].reshape(16, 16).mean(1)
        return bands / bands.sum()

    assert np.allclose(spectrum(noise), spectrum(low), atol=0.03)
    assert np.array_equal(noise, speech_shaped_noise(low, np.random.default_rng(1)))
