"""Files of several tracks, pieces of recordings and recordings put one behind the other."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mome.errors import MomeError
from mome.media import FRAME_RATE, SAMPLE_RATE, load_clip

from .builders import click, remux, write


def part(path: Path, seconds: float, at: float, sound: bool = True, video: bool = True, begins: float = 0) -> Path:
    """A recording with a click and a flash at one time, on a clock that begins at a whole second."""
    times = [number / 25 for number in range(round(seconds * 25))]
    lit = [at - 1e-6 <= time < at + 0.08 - 1e-6 for time in times]
    frames = [np.full((96, 96), 220 if bright else 20, np.uint8) for bright in lit]
    kind = {".ts": ("libx264", "aac"), ".mpg": ("mpeg1video", "mp2"), ".mkv": ("mpeg4", "pcm_s16le")}[path.suffix]
    return write(
        path,
        frames if video else None,
        [begins + time for time in times] if video else None,
        click(seconds, at, SAMPLE_RATE) if sound else None,
        wave_start=begins,
        video_codec=kind[0],
        audio_codec=kind[1],
        container="mpeg" if path.suffix == ".mpg" else None,
        clock=Fraction(1, 90_000) if path.suffix == ".ts" else Fraction(1, 25),
    )


def onsets(values: np.ndarray, rate: int) -> list[float]:
    """Times at which something begins after at least 0.2 s of nothing."""
    loud = np.flatnonzero(values > 0.4 * values.max()) / rate
    return [time for before, time in zip([-1.0, *loud], loud, strict=False) if time - before > 0.2]


TWO, THREE = [(3, 0.8), (3, 1.6)], [(1, 0.4), (2.6, 1.6), (1.2, 0.6)]


@pytest.mark.parametrize(
    ("kind", "parts"), [(".ts", TWO), (".ts", THREE), (".mpg", TWO), (".mpg", THREE), (".mkv", TWO)]
)
def test_joined_recordings_go_on_together(tmp_path, kind, parts):
    path = tmp_path / f"joined{kind}"
    path.write_bytes(b"".join(part(tmp_path / f"one{kind}", *each).read_bytes() for each in parts))
    clip = load_clip(path)
    total = sum(seconds for seconds, _ in parts)
    assert len(clip.audio) / SAMPLE_RATE == pytest.approx(total, abs=0.1 * len(parts))
    assert len(clip.mouth) / FRAME_RATE == pytest.approx(total, abs=0.1 * len(parts))
    clicks, flashes = onsets(np.abs(clip.audio), SAMPLE_RATE), onsets(clip.mouth.mean(axis=(1, 2)) - 20, FRAME_RATE)
    assert len(clicks) == len(flashes) == len(parts)
    np.testing.assert_allclose(clicks, flashes, atol=1.2 / FRAME_RATE)


@pytest.mark.parametrize("kind", [".ts", ".mpg"])
def test_a_recording_put_behind_may_have_a_far_later_clock(tmp_path, kind):
    early, late = part(tmp_path / f"one{kind}", 3, 0.8), part(tmp_path / f"two{kind}", 3, 1.6, begins=100)
    path = tmp_path / f"joined{kind}"
    path.write_bytes(early.read_bytes() + late.read_bytes())
    clip = load_clip(path)
    assert clip.seconds == pytest.approx(6, abs=0.2)
    clicks, flashes = onsets(np.abs(clip.audio), SAMPLE_RATE), onsets(clip.mouth.mean(axis=(1, 2)) - 20, FRAME_RATE)
    assert len(clicks) == len(flashes) == 2
    np.testing.assert_allclose(clicks, flashes, atol=1.2 / FRAME_RATE)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_recording_without_sound_among_others_is_silence(tmp_path, lacking):
    parts = [part(tmp_path / f"{n}.ts", 2.5, 0.5 + n / 2, sound=n != lacking) for n in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(recording.read_bytes() for recording in parts))
    clip = load_clip(path)
    flashes = onsets(clip.mouth.mean(axis=(1, 2)) - 20, FRAME_RATE)
    clicks = onsets(np.abs(clip.audio), SAMPLE_RATE)
    assert len(flashes) == 3
    np.testing.assert_allclose(clicks, [time for n, time in enumerate(flashes) if n != lacking], atol=1.2 / FRAME_RATE)


def test_a_piece_whose_clock_starts_late_is_whole(tmp_path):
    frames = [np.full((96, 96), 220 if 100 <= number < 102 else 20, np.uint8) for number in range(225)]
    complete = write(tmp_path / "whole.mkv", frames, wave=click(9, 4, SAMPLE_RATE))
    piece = remux(tmp_path / "piece.mkv", complete, keep=lambda time: time > 2.87)  # a key frame
    clip = load_clip(piece)
    assert len(clip.mouth) == pytest.approx(153, abs=1)
    assert onsets(np.abs(clip.audio), SAMPLE_RATE) == pytest.approx(
        onsets(clip.mouth.mean(axis=(1, 2)) - 20, FRAME_RATE), abs=1 / FRAME_RATE
    )


def test_what_is_not_read_does_not_make_a_file_cut_off(tmp_path):
    short = part(tmp_path / "short.mkv", 2, 0.8)
    long = write(tmp_path / "long.mka", wave=click(9, 0.8, SAMPLE_RATE))
    path = remux(tmp_path / "a.mkv", short, long, defaults=(1, 1, 0))
    clip = load_clip(path)
    assert clip.seconds == pytest.approx(2, abs=0.05)
    assert "2 sound tracks" in clip.warnings[0]
    assert len(load_clip(path, audio_track=1).audio) == pytest.approx(9 * SAMPLE_RATE, abs=100)


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
@pytest.mark.parametrize(("sound", "video"), [(0.6, 0.0), (5.0, 0.0), (30.0, 0.0), (0.0, 1.0), (0.0, 30.0)])
def test_one_stream_may_start_late(tmp_path, kind, sound, video):
    path = write(
        tmp_path / f"a.{kind}",
        [np.full((96, 96), 220 if 25 <= number < 27 else 20, np.uint8) for number in range(75)],
        [video + number / 25 for number in range(75)],
        click(3, 0.5, SAMPLE_RATE),
        wave_start=sound,
        video_codec="mpeg4",
        audio_codec="aac",
        clock=Fraction(1, 25),
    )
    clip = load_clip(path)
    assert clip.seconds == pytest.approx(3 + sound + video, abs=0.2)
    assert onsets(np.abs(clip.audio), SAMPLE_RATE) == pytest.approx([sound + 0.5], abs=0.06)
    assert onsets(clip.mouth.mean(axis=(1, 2)) - 20, FRAME_RATE)[0] == pytest.approx(video + 1, abs=0.06)


def test_subtitles_may_be_longer_than_the_recording(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:11,000 --> 00:00:12,000\nand then\n")
    path = remux(tmp_path / "a.mkv", part(tmp_path / "short.mkv", 2, 0.8), tmp_path / "a.srt")
    with av.open(str(path)) as container:
        assert container.duration > 10e6
    assert load_clip(path).seconds == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_sound_track_is_read_with_a_warning(tmp_path, default):
    tracks = [write(tmp_path / f"{at}.mka", wave=click(1, at, SAMPLE_RATE)) for at in (0.3, 0.7)]
    path = remux(tmp_path / "a.mka", *tracks, defaults=tuple(int(n == default) for n in range(2)))

    def click_time(**options: int) -> float:
        return onsets(np.abs(load_clip(path, video=False, **options).audio), SAMPLE_RATE)[0]

    assert click_time() == pytest.approx((0.3, 0.7)[default], abs=0.01)
    assert (click_time(audio_track=0), click_time(audio_track=1)) == pytest.approx((0.3, 0.7), abs=0.01)
    assert load_clip(path, video=False, audio_track=default).warnings == ()
    (note,) = load_clip(path, video=False).warnings
    assert note == f"{path} has 2 sound tracks (0, 1); using {default}, --audio-track chooses another"
    with pytest.raises(MomeError, match=r"a\.mka has no sound track 2: it has 2 sound tracks, numbered from 0"):
        load_clip(path, audio_track=2)
    for odd in ("x", 1.5, True):
        with pytest.raises(MomeError, match=r"^audio_track=.* is not possible"):
            load_clip(path, audio_track=odd)


def test_among_equal_tracks_the_one_with_most_channels_is_heard(tmp_path):
    mono = write(tmp_path / "mono.mka", wave=click(1, 0.3, SAMPLE_RATE))
    stereo = write(tmp_path / "stereo.mka", wave=np.stack([click(1, 0.7, SAMPLE_RATE)] * 2))
    path = remux(tmp_path / "a.mka", mono, stereo)
    assert onsets(np.abs(load_clip(path, video=False).audio), SAMPLE_RATE)[0] == pytest.approx(0.7, abs=0.01)


def test_frames_far_apart_are_not_filled_up(tmp_path):
    frames = [np.full((96, 96), 90, np.uint8)] * 75
    path = write(tmp_path / "a.mkv", frames, [59.0 * number for number in range(75)])
    with pytest.raises(MomeError, match=r"a\.mkv: its video lasts 4\d\d\d\.\d+ s, longer than the 3600 s"):
        load_clip(path)
    path = write(tmp_path / "b.mkv", frames[:30], [59.0 * number for number in range(30)])
    with pytest.raises(MomeError, match=r"b\.mkv: its video stands still for more than the 600 s"):
        load_clip(path)


def test_pictures_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", [np.zeros((96, 128), np.uint8)] * 3, wave=click(1, 0.5, SAMPLE_RATE))
    monkeypatch.setattr("mome.media.limits.MOST_PIXELS", 96 * 127)
    with pytest.raises(MomeError, match=r"a\.mkv: its pictures have 128x96 pixels, at most 12192"):
        load_clip(path)
    assert load_clip(path, video=False).audio is not None


def test_a_long_video_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", [np.zeros((96, 96), np.uint8)] * 75)
    assert load_clip(path, audio=False, longest_video=3.0).seconds == pytest.approx(3)
    with pytest.raises(MomeError, match=r"longer than the 2\.9 s"):
        load_clip(path, longest_video=2.9)
    monkeypatch.setattr("mome.media.frames.packets", None)
    with pytest.raises(MomeError, match=r"a\.mkv: its video lasts 3\.00 s, longer than the 2 s"):
        load_clip(path, longest_video=2.0)


def test_a_stream_of_an_unknown_codec_does_not_hide_the_others(tmp_path):
    path = write(tmp_path / "a.mkv", [np.zeros((96, 96), np.uint8)] * 25, wave=click(1, 0.5, SAMPLE_RATE))
    content = path.read_bytes()
    assert content.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_ODD/INT/LIT"))
    clip = load_clip(path)
    assert len(clip.mouth) == 25
    assert "no sound" in clip.warnings[0]
