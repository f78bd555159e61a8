"""Sound of every kind of channel, level, rate and length: the right wave, or one line that names the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from mome.errors import MomeError
from mome.media import SAMPLE_RATE, limits, load_clip
from mome.media.noise import load_noise
from mome.media.sound import _Stretch

from .builders import encode, write


def tone(hertz: float = 440, seconds: float = 1, rate: int = SAMPLE_RATE, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.mka", "libopus", "7.1"),
        ("a.wv", "wavpack", "7.1"),
        ("a.wv", "wavpack", "16 channels"),
        ("a.flac", "flac", "7.1"),
        ("a.m4a", "alac", "7.1(wide)"),
        ("a.mkv", "pcm_f32le", "22.2"),
        ("a.wav", "pcm_f64le", "16 channels"),
        ("a.wav", "pcm_s64le", "stereo"),
        ("a.wav", "pcm_s64le", "9 channels"),
        ("a.wav", "pcm_s16le", "2.1"),
    ],
)
def test_any_number_of_channels_in_any_format(tmp_path, name, codec, layout):
    path = encode(tmp_path / name, tone(rate=48_000), 48_000, codec, layout)
    middle = load_clip(path, video=False).audio[4000:12_000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.4, rel=0.02)
    assert np.argmax(np.abs(np.fft.rfft(middle * np.hanning(8000)))) * 2 == 440


def test_channels_of_seven_one_aac_do_not_end_the_process(tmp_path):
    clip = load_clip(encode(tmp_path / "a.mp4", tone(rate=48_000), 48_000, "aac", "7.1"), video=False)
    # The encoder leaves the tone out of the one channel that is for low frequencies.
    assert np.sqrt(2 * np.mean(clip.audio[4000:12_000] ** 2)) == pytest.approx(0.4 * 7 / 8, rel=0.02)


@pytest.mark.parametrize("inverted", [1.0, 0.9])
def test_opposite_channels_are_not_lost(tmp_path, inverted):
    hum = tone(50, level=0.2)
    path = write(tmp_path / "a.wav", wave=np.stack([tone() + hum, hum - inverted * tone()]))
    clip = load_clip(path, video=False)
    np.testing.assert_allclose(clip.audio, tone() + hum, atol=1e-3)
    assert clip.warnings == (f"{path}: the channels of the sound cancel each other, so only channel 0 is used",)


@pytest.mark.parametrize("share", [0.12, 0.3, 0.5, 0.9])
def test_channels_that_are_opposite_for_a_part_are_not_lost(tmp_path, share):
    wave = tone(seconds=7.45)
    other = wave * np.where(np.arange(len(wave)) < (1 - share) * len(wave), 1, -1)
    path = write(tmp_path / "a.wav", wave=np.stack([wave, other]))
    clip = load_clip(path, video=False)
    np.testing.assert_allclose(clip.audio, wave, atol=1e-3)
    assert clip.warnings == (f"{path}: the channels of the sound cancel each other, so only channel 0 is used",)


@pytest.mark.parametrize("late", [0, 3, 12])
def test_wide_stereo_is_averaged(tmp_path, late):
    rng = np.random.default_rng(0)
    loud = np.repeat(rng.uniform(0.1, 1, 50), SAMPLE_RATE // 10)
    common, left, right = 0.1 * rng.standard_normal((3, 5 * SAMPLE_RATE)) * loud
    sides = np.stack([common + left, np.roll(common, late) + right]).astype(np.float32).clip(-1, 1)
    clip = load_clip(write(tmp_path / "a.wav", wave=sides), video=False)
    np.testing.assert_allclose(clip.audio, sides.mean(axis=0), atol=1e-3)
    assert clip.warnings == ()


def test_opposite_front_channels_leave_a_centre_that_speaks(tmp_path):
    silent, centre = np.zeros(SAMPLE_RATE, np.float32), tone(300)
    path = write(tmp_path / "a.wav", wave=np.stack([tone(), -tone(), centre, silent, silent, silent]))
    np.testing.assert_allclose(load_clip(path, video=False).audio, centre, atol=1e-3)
    path = write(tmp_path / "b.wav", wave=np.stack([tone(), -tone(), silent, silent, silent, silent]))
    np.testing.assert_allclose(load_clip(path, video=False).audio, tone(), atol=1e-3)


@pytest.mark.parametrize("other", [np.zeros(SAMPLE_RATE, np.float32), tone(301), 0.3 * tone()])
def test_channels_that_do_not_cancel_are_averaged(tmp_path, other):
    clip = load_clip(write(tmp_path / "a.wav", wave=np.stack([tone(), other])), video=False)
    np.testing.assert_allclose(clip.audio, (tone() + other) / 2, atol=1e-3)
    assert clip.warnings == ()


@pytest.mark.parametrize("wild", [np.inf, -np.inf, np.nan, 1e30, 50.0])
def test_a_wild_sample_does_not_set_the_level(tmp_path, wild):
    wave = tone()
    wave[100] = wild
    path = write(tmp_path / "a.wav", wave=wave, audio_codec="pcm_f32le")
    clip = load_clip(path, video=False)
    np.testing.assert_allclose(np.delete(clip.audio, 100), np.delete(tone(), 100), atol=1e-6)
    assert clip.warnings == (f"{path}: 1 sample is not finite or far louder than the rest, and set to silence",)
    assert np.abs(load_noise(path)).max() < 0.5


@pytest.mark.parametrize(
    "wild",
    [
        {8000 + number: 1e6 for number in range(60)},
        dict.fromkeys(range(0, SAMPLE_RATE, 700), -1e6),
        {2000: 6.0, 4000: -36.0, 8000: 200.0, 15_999: 1200.0},
    ],
)
def test_many_wild_samples_do_not_set_the_level(tmp_path, wild):
    wave, places = tone(), list(wild)
    wave[places] = list(wild.values())
    path = write(tmp_path / "a.wav", wave=wave, audio_codec="pcm_f32le")
    clip = load_clip(path, video=False)
    np.testing.assert_allclose(np.delete(clip.audio, places), np.delete(tone(), places), atol=1e-6)
    assert clip.warnings == (
        f"{path}: {len(wild)} samples are not finite or far louder than the rest, and set to silence",
    )


@pytest.mark.parametrize("gain", [5.0, 30_000.0])
def test_loud_speech_among_silence_is_scaled_as_a_whole(tmp_path, gain):
    rng = np.random.default_rng(0)
    speech = np.zeros(20 * SAMPLE_RATE, np.float32)
    speech[100_000:103_200] = 0.2 * np.clip(rng.laplace(size=3200), -4, 4)  # 0.2 s
    clip = load_clip(write(tmp_path / "a.wav", wave=gain * speech, audio_codec="pcm_f32le"), video=False)
    np.testing.assert_allclose(clip.audio, speech / np.abs(speech).max(), atol=1e-5)
    assert clip.warnings == ()


@pytest.mark.parametrize("level", [1.5, 30.0, 32_768.0])
def test_sound_that_is_loud_throughout_is_scaled_as_a_whole(tmp_path, level):
    speech = tone() * np.repeat([0.0, 1.0, 0.1, 0.0], SAMPLE_RATE // 4)
    clip = load_clip(write(tmp_path / "a.wav", wave=speech * level / 0.4, audio_codec="pcm_f32le"), video=False)
    np.testing.assert_allclose(clip.audio, speech / np.abs(speech).max(), atol=1e-5)
    assert clip.warnings == ()


def refused(path: Path, **options: object) -> str:
    with pytest.raises(MomeError) as caught:
        load_clip(path, **options)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rate", [1, 3999, 999_983, 10_000_019])
def test_absurd_sample_rates_are_refused_for_every_caller(tmp_path, rate):
    path = write(tmp_path / "a.wav", wave=np.zeros(16_000), rate=rate)
    assert f"{rate} samples a second, 4000 to 768000" in refused(path)
    with pytest.raises(MomeError, match="samples a second"):
        load_noise(path)


@pytest.mark.parametrize("rate", [4000, 15_999, 44_101, 191_999])
def test_odd_sample_rates_are_resampled(tmp_path, rate):
    clip = load_clip(write(tmp_path / "a.wav", wave=tone(300, rate=rate), rate=rate), video=False)
    np.testing.assert_allclose(clip.audio[200:15_800], tone(300)[200:15_800], atol=4e-3)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_sound_resampled_in_blocks_is_the_same_to_the_bit(rate):
    wave = np.random.default_rng(0).standard_normal(70 * rate + 37).astype(np.float32)
    stretch, pieces = _Stretch(0.0, rate), []
    for start in range(0, len(wave), 100_000):
        stretch.append(wave[start : start + 100_000])
        pieces += stretch.ready()
    assert len(pieces) == 2
    expected = resample_poly(wave, SAMPLE_RATE, rate).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([*pieces, *stretch.rest()]), expected)


def test_no_sound_is_longer_than_the_limit(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", wave=np.zeros(48_000, np.float32))
    monkeypatch.setattr("mome.media.sound.LONGEST_SOUND", 2.0)
    assert "lasts 3.00 s, longer than the 2 s that are read at most" in refused(path, longest=10)
    with pytest.raises(MomeError, match="longer than the 2 s"):
        load_noise(path)


def test_too_many_channels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MOST_CHANNELS", 5)
    assert "6 channels, at most 5" in refused(write(tmp_path / "a.wav", wave=np.zeros((6, 1600))))


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le", "pcm_u8"])
def test_a_wave_file_that_is_cut_off_is_refused(tmp_path, codec):
    path = encode(tmp_path / "a.wav", tone(seconds=3), SAMPLE_RATE, codec, "mono")
    assert load_clip(path, video=False).seconds == pytest.approx(3, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])
    assert "cut off: it ends after 1.2 of 3.0 s" in refused(path)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wave_file_written_to_a_pipe_is_whole(tmp_path, size):
    path = write(tmp_path / "a.wav", wave=tone())
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(load_clip(path, video=False).audio) == SAMPLE_RATE
