"""Noise at an exact ratio, the same in every run, and never silently wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.clip import Clip
from mome.errors import MomeError
from mome.media.noise import add_noise, babble, clip_rng, load_noise, mix, snr_db, speech_shaped_noise, white_noise

from .builders import write


def wave(seed: int, samples: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).normal(size=samples)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.floats(-40, 40) | st.sampled_from([0, 0.0, -5, 10]),
    speech_samples=st.integers(50, 3000),
    noise_samples=st.integers(1, 3000),
    level=st.floats(0.001, 10),
    seed=st.integers(0, 2**31),
)
def test_the_ratio_is_exact(ratio, speech_samples, noise_samples, level, seed):
    speech, noise = wave(1, speech_samples), wave(2, noise_samples, level)
    mixed = mix(speech, noise, ratio, np.random.default_rng(seed))
    assert mixed.shape == speech.shape
    assert mixed.dtype == np.float32
    added = mixed.astype(float) - speech
    assert snr_db(speech, added) == pytest.approx(ratio, abs=0.01)


def test_the_added_noise_is_a_stretch_of_the_recording():
    speech, noise = wave(1, 100), wave(2, 1000)
    added = mix(speech, noise, 0, np.random.default_rng(3)) - speech
    likeness = [np.corrcoef(added, noise[start : start + 100])[0, 1] for start in range(901)]
    assert max(likeness) == pytest.approx(1, abs=1e-4)


def test_short_noise_is_repeated():
    speech, noise = wave(1, 1000), wave(2, 300)
    added = mix(speech, noise, 0, np.random.default_rng(3)).astype(float) - speech
    np.testing.assert_allclose(added[:700], added[300:], atol=1e-6)
    assert np.abs(added[:300]).min() < np.abs(added[:300]).max()


def test_pauses_in_the_noise_are_avoided():
    noise = np.zeros(100_000, np.float32)
    noise[70_000:70_400] = 0.3
    speech = wave(1, 500)
    for seed in range(20):
        mixed = mix(speech, noise, 5, np.random.default_rng(seed))
        assert snr_db(speech, mixed.astype(float) - speech) == pytest.approx(5, abs=0.01)


def test_the_inputs_stay_as_they_are():
    speech, noise = wave(1, 500), wave(2, 900)
    before = speech.copy(), noise.copy()
    mix(speech, noise, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(speech, before[0])
    np.testing.assert_array_equal(noise, before[1])


@pytest.mark.parametrize("silent", [np.zeros(500, np.float32), np.zeros(0, np.float32)])
def test_silence_has_no_ratio(silent):
    with pytest.raises(MomeError, match="the speech is silent"):
        mix(silent, wave(1, 500), 0, np.random.default_rng(0))
    with pytest.raises(MomeError, match="the noise is silent"):
        mix(wave(1, 500), silent, 0, np.random.default_rng(0))


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1000])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(MomeError, match="not possible"):
        mix(wave(1, 500), wave(2, 500), ratio, np.random.default_rng(0))


def test_ratio_of_known_waves():
    assert snr_db(np.full(10, 1.0), np.full(20, 0.1)) == pytest.approx(20)
    assert snr_db(np.ones(5), np.zeros(5)) == np.inf


def test_random_numbers_depend_on_seed_and_clip_only():
    def draw(seed: int, clip: str) -> int:
        return int(clip_rng(seed, clip).integers(2**40))

    # A number written down: other processes, machines and versions must draw it too.
    assert draw(0, "bbaf2n") == 917451599642
    assert len({draw(0, "a"), draw(1, "a"), draw(-1, "a"), draw(0, "b")}) == 4


def test_noise_files(tmp_path):
    noise = load_noise(write(tmp_path / "a.wav", wave=wave(1, 8000), rate=8000))
    assert noise.dtype == np.float32
    assert len(noise) == pytest.approx(16000, abs=2)
    with pytest.raises(MomeError, match=r"b\.wav is silent"):
        load_noise(write(tmp_path / "b.wav", wave=np.zeros(800)))
    with pytest.raises(MomeError, match=r"c\.mkv has no sound"):
        load_noise(write(tmp_path / "c.mkv", [np.zeros((96, 96), np.uint8)] * 3))
    with pytest.raises(MomeError, match=r"none\.wav"):
        load_noise(tmp_path / "none.wav")


def test_noise_in_a_clip_depends_on_seed_and_name_alone():
    noise, clip = wave(2, 5000), Clip(wave(1, 640), None, 0.04, Path("folder/a.wav"))
    noisy = add_noise(clip, noise, 5.0, seed=3)
    assert np.array_equal(noisy.audio, mix(clip.audio, noise, 5.0, clip_rng(3, "a.wav")))
    assert np.array_equal(noisy.audio, add_noise(clip, noise, 5.0, 3, "a.wav").audio)
    assert not np.array_equal(noisy.audio, add_noise(clip, noise, 5.0, 3, "b.wav").audio)
    assert (noisy.path, noisy.seconds) == (clip.path, clip.seconds)
    lips = Clip(None, np.zeros((1, 96, 96), np.uint8), 0.04)
    assert add_noise(lips, noise, 5.0, 0) is lips
    with pytest.raises(MomeError, match=r"^folder.a\.wav: the speech is silent"):
        add_noise(Clip(np.zeros(640, np.float32), None, 0.04, clip.path), noise, 5.0, 0)


def test_white_noise_has_the_same_power_at_all_frequencies():
    spectrum = np.abs(np.fft.rfft(white_noise(np.random.default_rng(0)))) ** 2
    bands = spectrum[:80_000].reshape(8, -1).mean(axis=1)
    assert bands == pytest.approx(np.full(8, bands.mean()), rel=0.05)


def test_speech_shaped_noise_has_the_spectrum_of_the_speech():
    """Power per octave of what was made, against that of a coloured source."""
    source = np.cumsum(wave(0, 160_000)) * 0.01
    source -= np.convolve(source, np.ones(100) / 100, mode="same")
    shaped = speech_shaped_noise(source.astype(np.float32), np.random.default_rng(1))
    octaves = [(250, 500), (500, 1000), (1000, 2000), (2000, 4000), (4000, 8000)]

    def levels(sound: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(sound[:160_000])) ** 2
        bands = np.array([power[10 * low : 10 * high].sum() for low, high in octaves])
        return 10 * np.log10(bands / bands.sum())

    assert levels(shaped) == pytest.approx(levels(source), abs=1)
    assert np.ptp(levels(source)) > 10


def test_babble_is_the_speech_at_sixteen_places():
    speech = np.zeros(4000, np.float32)
    speech[0] = 4
    voices = babble(speech, np.random.default_rng(0))
    assert voices.shape == speech.shape
    assert voices.sum() == pytest.approx(16)
    assert (voices > 0).sum() >= 14, "places may coincide"
