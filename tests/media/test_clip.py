"""Files of every odd kind through ``load_clip``: what comes out, in sync, and what the user is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mome.errors import MomeError
from mome.media import FRAME_RATE, SAMPLE_RATE, load_clip
from mome.media.decode import Damage, probe
from mome.media.frames import read_frames, upright, upright_size
from mome.media.noise import load_noise
from mome.media.sound import read_audio

from .builders import click, write


def greys(count: int, size: int = 96) -> list[np.ndarray]:
    """Square pictures that are told apart by their brightness."""
    return [np.full((size, size), 30 + 2 * number, np.uint8) for number in range(count)]


def flash(rate: float, seconds: float, at: float, start: float = 0.0) -> tuple[list[np.ndarray], list[float]]:
    """Dark pictures, bright from ``at`` on for 80 ms, and their times."""
    times = [start + number / rate for number in range(round((seconds - start) * rate))]
    lit = [at - 1e-6 <= time < at + 0.08 - 1e-6 for time in times]
    return [np.full((96, 96), 220 if bright else 20, np.uint8) for bright in lit], times


def onset(values: np.ndarray, rate: int) -> float:
    return int(np.argmax(values > 0.5 * values.max())) / rate


def refused(path: Path, **streams: bool) -> str:
    with pytest.raises(MomeError) as caught:
        load_clip(path, **streams)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_constant_25_fps_gives_each_frame_once(tmp_path):
    clip = load_clip(write(tmp_path / "a.mkv", greys(40), wave=click(1.6, 0.4, SAMPLE_RATE)))
    assert clip.mouth.shape == (40, 96, 96)
    assert clip.mouth.dtype == np.uint8
    assert (np.diff(clip.mouth[:, 48, 48].astype(int)) > 0).all()
    assert clip.audio.shape == (25600,)
    assert clip.audio.dtype == np.float32
    assert clip.seconds == pytest.approx(1.6)
    assert clip.warnings == ()


@pytest.mark.parametrize("rate", [12.5, 24, 30, 30000 / 1001, 50, 60])
@pytest.mark.parametrize("sound_rate", [8000, 44100])
def test_flash_and_click_stay_together(tmp_path, rate, sound_rate):
    frames, times = flash(rate, 2.0, at=0.8)
    path = write(tmp_path / "a.mkv", frames, times, click(2.0, 0.8, sound_rate), rate=sound_rate)
    clip = load_clip(path)
    assert len(clip.mouth) == pytest.approx(2.0 * FRAME_RATE, abs=1)
    assert len(clip.audio) == pytest.approx(2.0 * SAMPLE_RATE, abs=2)
    assert onset(np.abs(clip.audio), SAMPLE_RATE) == pytest.approx(0.8, abs=0.001)
    assert onset(clip.mouth.mean(axis=(1, 2)), FRAME_RATE) == pytest.approx(0.8, abs=1 / FRAME_RATE)


@pytest.mark.parametrize(("video_start", "sound_start"), [(0.0, 0.5), (0.5, 0.0), (0.31, 0.0), (0.0, 0.013)])
def test_streams_that_start_apart_stay_together(tmp_path, video_start, sound_start):
    frames, times = flash(25, 2.0, at=video_start + 0.8, start=video_start)
    at = video_start + 0.8 - sound_start
    sound = click(2.0 - sound_start, at, SAMPLE_RATE)
    clip = load_clip(write(tmp_path / "a.mkv", frames, times, sound, wave_start=sound_start))
    flash_time = onset(clip.mouth.mean(axis=(1, 2)), FRAME_RATE)
    click_time = onset(np.abs(clip.audio), SAMPLE_RATE)
    # The clip's clock follows the frames: a constant 25 fps video is exact to the container's millisecond.
    assert click_time == pytest.approx(flash_time, abs=0.002)
    alone = load_clip(clip.path, video=False)
    np.testing.assert_array_equal(alone.audio, clip.audio)


def test_compressed_phone_file_stays_together(tmp_path):
    frames, times = flash(30, 2.0, at=0.8)
    sound = click(2.0, 0.8, 48000)
    path = write(tmp_path / "a.mp4", frames, times, sound, rate=48000, video_codec="libx264", audio_codec="aac")
    clip = load_clip(path)
    assert onset(np.abs(clip.audio), SAMPLE_RATE) == pytest.approx(0.8, abs=0.005)
    assert onset(clip.mouth.mean(axis=(1, 2)), FRAME_RATE) == pytest.approx(0.8, abs=1 / FRAME_RATE)


def test_variable_frame_rate_shows_each_frame_as_long_as_it_lasts(tmp_path):
    times = [0.0, 0.04, 0.4, 0.44, 1.0, 1.04]
    clip = load_clip(write(tmp_path / "a.mkv", greys(6), times), audio=False)
    changes = np.flatnonzero(np.diff(clip.mouth[:, 48, 48].astype(int))) + 1
    assert (changes / FRAME_RATE).tolist() == pytest.approx(times[1:])


def test_sound_missing_in_between_is_silence(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in [*range(0, 8000, 1000), *range(16000, 24000, 1000)]:
            sound = av.AudioFrame.from_ndarray(np.full((1, 1000), 9000, np.int16), "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, start, Fraction(1, 16000)
            out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    clip = load_clip(path, video=False)
    assert len(clip.audio) == 24000
    assert not clip.audio[8000:16000].any()
    assert (clip.audio[16000:] > 0.2).all()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.wav", "pcm_f32le"),
        ("a.wav", "pcm_u8"),
        ("a.wav", "pcm_s24le"),
        ("a.flac", "flac"),
        ("a.mp3", "libmp3lame"),
        ("a.ogg", "libopus"),
    ],
)
def test_sound_files_of_any_format(tmp_path, name, codec):
    rate = 48000 if codec == "libopus" else 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    # Two unequal channels: the mean of them is what counts, in every sample format.
    path = write(tmp_path / name, wave=np.stack([tone, tone / 2]), rate=rate, audio_codec=codec)
    clip = load_clip(path, video=False)
    assert clip.mouth is None
    assert clip.warnings == ()
    # (LAME encodes 5 % softer on purpose.)
    middle = clip.audio[4000:12000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.375, rel=0.06)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(8000)))
    assert np.argmax(spectrum) * 2 == 440
    assert len(load_clip(path).warnings) == 1


def test_too_loud_float_sound_is_scaled_not_clipped(tmp_path):
    tone = 3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    clip = load_clip(write(tmp_path / "a.wav", wave=tone, audio_codec="pcm_f32le"), video=False)
    np.testing.assert_allclose(clip.audio, tone / np.abs(tone).max(), atol=1e-5)


@pytest.mark.parametrize(("level", "warned"), [(0.0, True), (3e-5, True), (0.01, False)])
def test_silence_is_warned_of(tmp_path, level, warned):
    wave = level * np.sin(np.arange(16_000) / 5)
    clip = load_clip(write(tmp_path / "a.mkv", greys(25), wave=wave))
    assert any("silent throughout" in line for line in clip.warnings) == warned
    assert load_clip(write(tmp_path / "b.mkv", greys(25), wave=0 * wave), audio=False).warnings == ()


@pytest.mark.parametrize("level", [0.0, 3e-5, np.nan])
def test_silence_alone_is_nothing_to_transcribe(tmp_path, level):
    wave = np.full(16_000, level, np.float32)
    path = write(tmp_path / "a.wav", wave=wave, audio_codec="pcm_f32le")
    for streams in ({}, {"video": False}):
        assert "a.wav: its sound is silent throughout" in refused(path, **streams)
    path = write(tmp_path / "a.mkv", greys(25), wave=wave, audio_codec="pcm_f32le")
    assert "silent throughout, so it cannot be heard; it has video" in refused(path, video=False)
    assert load_clip(path).mouth is not None
    faceless = write(tmp_path / "b.mkv", greys(5, 160), wave=np.zeros(16_000))
    assert "silent throughout and no face found, so there is nothing" in refused(
        faceless, detector=lambda picture, scale: []
    )


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        assert "is no regular file" in refused(path)
        with pytest.raises(MomeError, match="is no regular file"):
            load_noise(path)


def test_unwanted_streams_are_left_out_silently(tmp_path):
    path = write(tmp_path / "a.mkv", greys(25), wave=click(1, 0.5, SAMPLE_RATE))
    assert load_clip(path, audio=False).audio is None
    assert load_clip(path, video=False).mouth is None
    assert load_clip(path, audio=False).warnings == load_clip(path, video=False).warnings == ()


def test_no_sound_is_a_warning_and_an_error_if_only_sound_is_wanted(tmp_path):
    path = write(tmp_path / "a.mkv", greys(25))
    clip = load_clip(path)
    assert clip.audio is None
    assert clip.mouth is not None
    (warning,) = clip.warnings
    assert "no sound" in warning
    assert "no sound" in refused(path, video=False)


def test_no_video_is_a_warning_and_an_error_if_only_video_is_wanted(tmp_path):
    path = write(tmp_path / "a.wav", wave=click(1, 0.5, SAMPLE_RATE))
    (warning,) = load_clip(path).warnings
    assert "no video" in warning
    assert "sound that can be used" in refused(path, audio=False)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=16000, layout="mono")
        cover = out.add_stream("png", rate=1)
        cover.width = cover.height = 96
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        block = av.AudioFrame.from_ndarray(click(1, 0.5, 16000)[None], "fltp", "mono")
        block.sample_rate = 16000
        out.mux(cover.encode(av.VideoFrame.from_ndarray(greys(1)[0], format="gray").reformat(format="rgb24")))
        out.mux(cover.encode(None))
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    clip = load_clip(path)
    assert clip.mouth is None
    assert "no video" in clip.warnings[0]


def test_sound_without_samples_and_no_video_is_an_error(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
    assert "no sound" in refused(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "noise", "picture", "odd name"])
def test_what_is_no_media_is_refused_in_one_line(tmp_path, kind, capfd):
    path = tmp_path / ("a" * 300 + ".mp4" if kind == "odd name" else f"{kind}.mp4")
    if kind == "folder":
        path.mkdir()
    elif kind == "picture":
        path = tmp_path / "picture.png"
        cv2.imwrite(str(path), greys(1)[0])
    elif kind not in ("missing", "odd name"):
        content = {"empty": b"", "text": b"hello\n" * 500, "noise": np.random.default_rng(0).bytes(20_000)}
        path.write_bytes(content[kind])
    refused(path)
    assert capfd.readouterr() == ("", "")


def test_cut_off_file_without_its_index_is_refused(tmp_path, capfd):
    complete = write(tmp_path / "whole.mp4", greys(50), video_codec="libx264")
    path = tmp_path / "cut.mp4"
    path.write_bytes(complete.read_bytes()[: complete.stat().st_size // 2])
    refused(path)
    assert capfd.readouterr() == ("", "")


def test_sound_that_starts_late_is_not_cut_off(tmp_path):
    wave = click(2.0, 1.0, SAMPLE_RATE)
    clip = load_clip(write(tmp_path / "late.mkv", [np.zeros((96, 96), np.uint8)] * 200, wave=wave, wave_start=6.0))
    assert clip.warnings == ()
    assert clip.audio is not None
    assert np.abs(clip.audio).argmax() / SAMPLE_RATE == pytest.approx(7.0, abs=0.03)


def test_cut_off_file_with_its_index_is_refused(tmp_path, capfd):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 96), dtype=np.uint8) for _ in range(50)]
    complete = write(tmp_path / "whole.mkv", frames, wave=click(2, 0.5, SAMPLE_RATE))
    content = bytearray(complete.read_bytes())
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(MomeError, match=r"cut\.mkv is (cut off: it ends after [01]\.\d of 2\.0 s|damaged)"):
        load_clip(cut)
    assert capfd.readouterr() == ("", "")


def test_file_with_much_damage_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 96), dtype=np.uint8) for _ in range(50)]
    complete = write(tmp_path / "whole.mkv", frames, wave=click(2, 0.5, SAMPLE_RATE))
    content = bytearray(complete.read_bytes())
    with av.open(str(complete)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size][::5]
        for packet in packets:
            content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path = tmp_path / "hurt.mkv"
    path.write_bytes(content)
    with pytest.raises(MomeError, match=r"hurt\.mkv is damaged: part of its video cannot be decoded"):
        load_clip(path)


def test_names_that_look_like_addresses_are_files(tmp_path):
    path = tmp_path / "concat:a%03d.mkv"
    shutil.copy(write(tmp_path / "a.mkv", greys(10)), path)
    assert len(load_clip(path, audio=False).mouth) == 10


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotated_video_is_turned_upright(tmp_path, degrees):
    picture = np.full((64, 128), 20, np.uint8)
    picture[:16, :16] = 220
    path = write(tmp_path / "a.mp4", [picture] * 5, video_codec="libx264", rotation=degrees)
    media = probe(path)
    frame = next(read_frames(media, Damage()))
    size = upright_size(frame, media.video.aspect)
    turned = upright(frame, size, "gray")
    # Turned counter-clockwise by 90 degrees, the upper left corner comes to lie lower left.
    assert turned.shape == ((64, 128) if degrees == 180 else (128, 64))
    corner = {90: (-8, 8), 180: (-8, -8), -90: (8, -8)}[degrees]
    assert turned[corner] > 150
    assert (turned > 150).sum() == pytest.approx(256, abs=80)


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    pictures = [np.full((72, 72), 90, np.uint8)] * 3
    path = write(tmp_path / "a.mp4", pictures, video_codec="libx264", aspect=Fraction(4, 3))
    media = probe(path)
    frame = next(read_frames(media, Damage()))
    assert upright_size(frame, media.video.aspect) == (96, 72)


def test_mouth_crops_are_used_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("MOME_FACE_DETECTOR", str(tmp_path / "none"))
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 96), dtype=np.uint8) for _ in range(5)]
    path = write(tmp_path / "a.mkv", frames)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(load_clip(path, audio=False).mouth, decoded)
    small = write(tmp_path / "b.mkv", greys(5, size=64))
    assert load_clip(small, audio=False).mouth.shape == (5, 96, 96)


def test_clock_far_off_between_streams_is_not_filled_up(tmp_path):
    path = write(tmp_path / "a.mkv", greys(25), wave=click(1, 0.5, SAMPLE_RATE), wave_start=4000.0)
    clip = load_clip(path)
    assert len(clip.mouth) == 25
    assert onset(np.abs(clip.audio), SAMPLE_RATE) == pytest.approx(0.5, abs=0.01)


def test_read_audio_of_a_silent_stretch_is_zero(tmp_path):
    path = write(tmp_path / "a.wav", wave=np.zeros(1600))
    assert not read_audio(probe(path), Damage()).any()


def test_a_damaged_packet_is_passed_over_with_a_warning(tmp_path, capfd):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 96), dtype=np.uint8) for _ in range(50)]
    path = write(tmp_path / "a.mkv", frames, wave=click(2, 0.5, SAMPLE_RATE), audio_codec="flac")
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        hurt = [packet for packet in container.demux(video=0) if packet.size][20]
        content[hurt.pos + 40 : hurt.pos + 40 + hurt.size // 2] = rng.bytes(hurt.size // 2)
    path.write_bytes(content)
    clip = load_clip(path)
    assert len(clip.mouth) == pytest.approx(50, abs=1)
    assert len(clip.audio) == 2 * SAMPLE_RATE
    assert capfd.readouterr() == ("", "")


def test_too_long_a_clip_is_refused_before_its_video_is_looked_at(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", greys(75), wave=click(3, 0.5, 44100), rate=44100)
    assert load_clip(path, longest=3.0).seconds == pytest.approx(3)
    monkeypatch.setattr("mome.media.reading.read_frames", None)
    with pytest.raises(MomeError) as caught:
        load_clip(path, longest=2.0)
    assert str(caught.value).startswith(f"{path} lasts 3.00 s, longer than the 2 s ")
    assert "\n" not in str(caught.value)


def test_a_long_recording_is_not_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", wave=np.zeros(60 * SAMPLE_RATE, np.float32))
    monkeypatch.setattr("mome.media.sound.packets", None)
    with pytest.raises(MomeError, match=r"a\.wav lasts 60\.00 s, longer than the 5 s"):
        load_clip(path, video=False, longest=5.0)


@pytest.mark.parametrize("samples", [32_001, 32_100, 33_600])
def test_a_limit_is_exact(tmp_path, samples):
    with pytest.raises(MomeError, match="longer than the 2 s"):
        load_clip(write(tmp_path / "a.wav", wave=np.zeros(samples, np.float32)), video=False, longest=2.0)
    assert (
        len(load_clip(write(tmp_path / "b.wav", wave=0.5 * np.ones(32_000)), video=False, longest=2.0).audio) == 32_000
    )


def test_only_sound_has_a_limit(tmp_path):
    path = write(tmp_path / "a.mkv", greys(75), wave=click(1, 0.5, SAMPLE_RATE))
    assert load_clip(path, longest=2.0).seconds == pytest.approx(3)
    assert load_clip(path, audio=False, longest=2.0).seconds == pytest.approx(3)


@pytest.mark.parametrize(
    "error",
    [
        av.error.InvalidDataError(1, "odd data"),
        cv2.error("(-215) odd data"),
        OSError(5, "odd data"),
        RuntimeError("odd data\nand more"),
        MemoryError(),
        ValueError("odd data"),
        NotImplementedError("odd data"),
        UnicodeDecodeError("utf-8", b"odd", 0, 1, "odd data"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_inside_the_libraries_name_the_file(tmp_path, monkeypatch, error):
    def fails(*_: object) -> np.ndarray:
        raise error

    path = write(tmp_path / "a.mkv", greys(5), wave=click(1, 0.5, SAMPLE_RATE))
    monkeypatch.setattr("mome.media.reading.upright", fails)
    assert ("odd data" in refused(path)) or ("MemoryError" in refused(path))
    monkeypatch.setattr("mome.media.sound._centre", fails)
    with pytest.raises(MomeError, match=r"a\.mkv"):
        load_noise(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.slow
def test_a_process_forked_after_reading_a_file_can_read_one_too(tmp_path):
    path = write(tmp_path / "a.mkv", [np.full((96, 96), 50, np.uint8)] * 5)
    code = f"""
import os, signal
from mome.media import load_clip
load_clip({str(path)!r})
child = os.fork()
if not child:
    signal.alarm(20)
    load_clip({str(path)!r})
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
