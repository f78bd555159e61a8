"""Recordings read as a stream: what ``load_clip`` gives at once, span by span, with memory that does not grow."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mome.errors import MomeError
from mome.media import FRAME_RATE, SAMPLE_RATE, load_clip
from mome.media.face import DETECTOR_VARIABLE, Face
from mome.media.recording import Recording

from .builders import TALKING, click, write

SHAPE = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])


def scene(*faces: tuple[float, float, float], size: tuple[int, int] = (120, 240)) -> np.ndarray:
    """A BGR picture with bright square faces on black: (left edge, brightness, openness of the mouth) each."""
    picture = np.zeros((*size, 3), np.uint8)
    for left, brightness, openness in faces:
        x = round(left)
        picture[30:90, x : x + 60] = brightness
        picture[72 : 78 + round(openness), x + 20 : x + 40] = 90
    return picture


class Squares:
    """Finds the square faces of a scene in place of a network, and counts the pictures."""

    def __init__(self):
        self.pictures = 0

    def __call__(self, picture: np.ndarray, scale: float = 1.0) -> list[Face]:
        self.pictures += 1
        bright = (picture.max(axis=2) > 60).astype(np.uint8)
        boxes = [row[:4].astype(float) for row in cv2.connectedComponentsWithStats(bright)[2][1:] if row[4] > 500]
        patch = np.zeros((30, 30), np.uint8)
        return [Face(scale * box, scale * (box[:2] + box[2:] * SHAPE), patch) for box in boxes]


def film(path: Path, scenes: list[np.ndarray], sound: np.ndarray | None = None) -> Path:
    return write(path, scenes, wave=sound)


def spans(recording: Recording, seconds: float = 1.0) -> list[np.ndarray | None]:
    starts = np.arange(0, recording.seconds, seconds)
    return [recording.mouth(start, start + seconds) for start in starts]


def brightness(mouth: np.ndarray) -> float:
    """Of the cheeks."""
    return float(np.median(mouth[:, 10:20, 40:56]))


@pytest.fixture
def moving(tmp_path) -> Path:
    """Three seconds of a face that goes to the right and speaks, with stereo sound at 44.1 kHz."""
    rng = np.random.default_rng(0)
    scenes = [scene((20 + 1.2 * number, 200, rng.integers(0, 6))) for number in range(75)]
    wave = np.stack([click(3, 1, 44_100), click(3, 2, 44_100)])
    return write(tmp_path / "a.mkv", scenes, wave=wave, rate=44_100, audio_codec="flac")


def test_one_span_with_every_frame_searched_is_the_clip_to_the_bit(moving, monkeypatch):
    monkeypatch.setattr("mome.media.detection.STEP", 1)
    clip = load_clip(moving, detector=Squares())
    with Recording(moving, detector=Squares()) as recording:
        assert recording.seconds == pytest.approx(3, abs=0.05)
        assert (recording.has_sound, recording.has_mouth) == (True, True)
        np.testing.assert_array_equal(np.concatenate(list(recording.sound())), clip.audio)
        np.testing.assert_array_equal(recording.mouth(0, recording.seconds), clip.mouth)
        assert recording.warnings == list(clip.warnings) == []


def test_spans_together_are_nearly_the_clip_and_need_few_detections(moving):
    clip, detector = load_clip(moving, detector=Squares()), Squares()
    with Recording(moving, detector=detector) as recording:
        mouths = spans(recording, 0.7)
        assert recording.mouth(3.5, 4.0) is None
    assert sum(map(len, mouths)) == 75
    assert np.abs(np.concatenate(mouths).astype(int) - clip.mouth).mean() < 3
    assert detector.pictures < 30


def test_spans_may_overlap_and_ascend(moving):
    with Recording(moving, detector=Squares()) as recording:
        first, second = recording.mouth(0, 1.6), recording.mouth(0.6, 2.0)
        np.testing.assert_array_equal(first[15:], second[:25])
        with pytest.raises(ValueError, match="comes too late"):
            recording.mouth(0.9, 2.5)
    with Recording(moving, detector=Squares()) as recording:
        recording.mouth(2, 2.2)
        with pytest.raises(ValueError, match="comes too late"):
            recording.mouth(1.9, 2.4)


def test_what_is_not_asked_for_is_not_searched(tmp_path):
    scenes = [scene((50, 120 + 10 * (number // 25), 0)) for number in range(250)]
    detector = Squares()
    with Recording(film(tmp_path / "a.mkv", scenes), detector=detector) as recording:
        first, later = recording.mouth(0, 1), recording.mouth(8, 9)
    assert (len(first), len(later)) == (25, 25)
    assert [brightness(frame[None]) for frame in first] == pytest.approx([120] * 25, abs=3)
    assert [brightness(frame[None]) for frame in later] == pytest.approx([200] * 25, abs=3)
    assert 0 < detector.pictures < 25


def test_quick_motion_is_searched_more_often(tmp_path):
    places = 90 + 80 * np.sin(np.arange(50) / 4)
    path, detector = film(tmp_path / "a.mkv", [scene((place, 200, 0)) for place in places]), Squares()
    expected = load_clip(path, detector=Squares()).mouth
    with Recording(path, detector=detector) as recording:
        mouth = recording.mouth(0, 2)
    assert np.abs(mouth.astype(int) - expected).mean() < 5
    assert detector.pictures > 25


@pytest.mark.parametrize(("video_start", "sound_start"), [(0.0, 0.5), (0.5, 0.0), (0.0, 0.013)])
def test_streams_that_start_apart_stay_together(tmp_path, video_start, sound_start):
    times = [video_start + number / 25 for number in range(50)]
    scenes = [scene((50, 200 if number != 20 else 120, 0)) for number in range(50)]
    path = write(tmp_path / "a.mkv", scenes, times, click(2, 0.8, SAMPLE_RATE), wave_start=sound_start)
    clip = load_clip(path, detector=Squares())
    with Recording(path, detector=Squares()) as recording:
        np.testing.assert_array_equal(np.concatenate(list(recording.sound())), clip.audio)
        mouth = np.concatenate([part for part in spans(recording, 0.5) if part is not None])
    assert len(mouth) == len(clip.mouth)
    assert np.argmin([brightness(frame[None]) for frame in mouth]) == round((video_start + 0.8) * FRAME_RATE)


def test_loud_and_cancelling_sound_is_mended_as_a_whole(tmp_path):
    tone = np.sin(np.arange(3 * SAMPLE_RATE) / 9) * np.linspace(0.1, 3, 3 * SAMPLE_RATE)
    path = write(tmp_path / "a.wav", wave=np.stack([tone, -tone]), audio_codec="pcm_f32le")
    clip = load_clip(path, video=False)
    with Recording(path, video=False) as recording:
        np.testing.assert_array_equal(np.concatenate(list(recording.sound())), clip.audio)
        assert recording.warnings == list(clip.warnings)
    assert len(clip.warnings) == 1


def test_long_sound_comes_in_blocks(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "a.wav", wave=0.1 * rng.standard_normal(70 * 8000), rate=8000, wave_start=0.0)
    with Recording(path, video=False) as recording:
        blocks = list(recording.sound())
        assert max(map(len, blocks)) <= 31 * SAMPLE_RATE
        np.testing.assert_array_equal(np.concatenate(blocks), load_clip(path, video=False).audio)
        assert sum(map(len, recording.sound())) == 70 * SAMPLE_RATE  # once more


def test_a_cut_changes_the_speaker_at_its_frame(tmp_path):
    scenes = [scene((20, 200, 0)) if number < 33 else scene((160, 120, 0)) for number in range(75)]
    with Recording(film(tmp_path / "a.mkv", scenes), detector=Squares()) as recording:
        mouth = np.concatenate(spans(recording, 1.5))
    assert [brightness(frame[None]) for frame in mouth] == pytest.approx([200] * 33 + [120] * 42, abs=3)


def test_where_no_face_is_there_is_no_mouth(tmp_path):
    scenes = [scene((50, 200, 0)) if not 50 <= number < 125 else scene() for number in range(200)]
    with Recording(film(tmp_path / "a.mkv", scenes, click(8, 1, SAMPLE_RATE)), detector=Squares()) as recording:
        seen = [part is not None for part in spans(recording)]
        assert recording.warnings == []
    assert seen == [True, True, False, False, False, True, True, True]


def test_a_video_without_faces_is_told(tmp_path):
    with Recording(
        film(tmp_path / "a.mkv", [scene()] * 25, click(1, 0.5, SAMPLE_RATE)), detector=Squares()
    ) as recording:
        assert spans(recording) == [None]
        assert recording.warnings == [f"{recording.path}: no face found, so its lips cannot be read"]


def two(number: int) -> tuple[float, float]:
    """How far two mouths are open: the right one speaks in the first 2 s, the left one from 4 s on, nobody between."""
    rng = np.random.default_rng(number)
    left, right = rng.integers(0, 8, 2)
    return (left if number >= 100 else 0), (right if number < 50 else 0)


@pytest.fixture
def dialogue(tmp_path) -> Path:
    opened = [two(number) for number in range(150)]
    return film(tmp_path / "a.mkv", [scene((20, 200, left), (150, 120, right)) for left, right in opened])


def test_the_speaker_stays_until_another_one_speaks(dialogue):
    with Recording(dialogue, audio=False, detector=Squares()) as recording:
        assert [brightness(part) for part in spans(recording, 2)] == pytest.approx([120, 120, 200], abs=3)
        (warning,) = recording.warnings
    assert "2 faces found" in warning


def test_a_chosen_side_is_read_throughout(dialogue):
    for side, expected in (("left", 200), ("right", 120)):
        with Recording(dialogue, audio=False, detector=Squares(), face=side) as recording:
            assert [brightness(part) for part in spans(recording, 2)] == pytest.approx([expected] * 3, abs=3)
            assert recording.warnings == []
    with pytest.raises(MomeError, match="face='middle' is not possible: choose from largest, left, right"):
        Recording(dialogue, face="middle")


def test_all_mouths_keep_their_numbers(tmp_path):
    left, right = (20, 200, 0), (150, 120, 0)
    shown = [(right,), (left, right), (left, right), (left,), (), (), (left, right)]
    scenes = [scene(*faces) for faces in shown for _ in range(25)]
    with Recording(film(tmp_path / "a.mkv", scenes), detector=Squares()) as recording:
        people = [recording.mouths(start, start + 1) for start in (0, 1, 3, 4, 6)]
    assert [list(mouths) for mouths in people] == [[0], [1, 0], [1], [], [1, 0]]
    for mouths in people:
        for person, mouth in mouths.items():
            assert mouth.shape == (25, 96, 96)
            assert brightness(mouth) == pytest.approx([120, 200][person], abs=3)


def test_ready_crops_are_passed_on(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "a.mkv", [rng.integers(0, 255, (96, 96), np.uint8) for _ in range(60)])
    expected = load_clip(path).mouth
    with Recording(path) as recording:
        assert recording.seconds == pytest.approx(2.4, abs=0.05)
        for start, end in ((0, 0.8), (0.4, 1.2), (1.6, 2.0), (1.8, 5)):
            np.testing.assert_array_equal(recording.mouth(start, end), expected[round(25 * start) : round(25 * end)])
        assert recording.mouth(5, 6) is None
        assert recording.warnings == list(load_clip(path).warnings)
    with Recording(path) as recording:
        assert list(recording.mouths(0, 1)) == [0]


def test_pieces_in_which_the_mouth_moves_come_with_their_crops(tmp_path):
    rng = np.random.default_rng(0)
    opened = [rng.integers(0, 12) if 60 <= number < 110 or 200 <= number < 330 else 0 for number in range(400)]
    path = film(tmp_path / "a.mkv", [scene((50, 200, each)) for each in opened])
    with Recording(path, detector=Squares()) as recording:
        whole = recording.mouth(0, 16)
    with Recording(path, detector=Squares()) as recording:
        pieces = list(recording.moving(3.0))
    assert pieces[0][0].start == pytest.approx(2.2, abs=0.4)
    assert pieces[0][0].end == pytest.approx(4.5, abs=0.3)
    assert pieces[1][0].start == pytest.approx(7.8, abs=0.4)
    assert pieces[-1][0].end == pytest.approx(13.4, abs=0.4)
    assert len(pieces) > 2
    assert all(before.end <= after.start or before.continued for (before, _), (after, _) in pairwise(pieces))
    for piece, crops in pieces:
        assert piece.end - piece.start <= 3
        first, last = round(25 * piece.start), round(25 * piece.end)
        assert len(crops) == last - first
        assert np.abs(crops.astype(int) - whole[first:last]).mean() < 0.5


def test_what_is_missing_is_told_as_for_a_clip(tmp_path):
    heard = write(tmp_path / "a.wav", wave=click(1, 0.5, SAMPLE_RATE))
    with Recording(heard) as recording:
        assert (recording.has_sound, recording.has_mouth, recording.mouth(0, 1)) == (True, False, None)
        assert (recording.mouths(0, 1), list(recording.moving(5))) == ({}, [])
        assert recording.warnings == list(load_clip(heard).warnings)
    seen = film(tmp_path / "b.mkv", [scene((50, 200, 0))] * 25)
    with Recording(seen, detector=Squares()) as recording:
        assert (recording.has_sound, recording.has_mouth, list(recording.sound())) == (False, True, [])
        assert recording.warnings == list(load_clip(seen, detector=Squares()).warnings)
    for path, options in ((heard, {"audio": False}), (seen, {"video": False})):
        with pytest.raises(MomeError) as clip:
            load_clip(path, **options)
        with pytest.raises(MomeError) as whole:
            Recording(path, **options)
        assert str(whole.value) == str(clip.value)
    silent = write(tmp_path / "c.wav", wave=np.zeros(SAMPLE_RATE))
    with Recording(silent, video=False) as recording:
        assert len(next(recording.sound())) == SAMPLE_RATE
        assert recording.warnings == [f"{silent}: the sound is silent throughout"]


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_much_damage_is_one_line(tmp_path, stream):
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal(3 * SAMPLE_RATE)
    path = write(tmp_path / "hurt.mkv", [scene((50, 200, 0))] * 75, wave=wave, audio_codec="flac")
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(**{stream: 0}) if packet.size][8:]
    for packet in packets[::2]:
        content[packet.pos + 20 : packet.pos + packet.size] = rng.bytes(packet.size - 20)
    path.write_bytes(content)
    with pytest.raises(MomeError, match=r"hurt\.mkv is damaged: part of its \w+ cannot be decoded") as caught:
        load_clip(path, detector=Squares())
    with Recording(path, detector=Squares()) as recording, pytest.raises(MomeError) as whole:
        list(recording.sound() if stream == "audio" else spans(recording))
    assert str(whole.value) == str(caught.value)


def test_an_unreadable_file_is_one_line(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(MomeError, match=r"a\.mp4 cannot be opened"):
        Recording(path)


def frames_alive() -> int:
    return sum(type(each) is av.VideoFrame for each in gc.get_objects())


def test_memory_does_not_grow_with_the_length(tmp_path):
    wave = np.zeros(30 * SAMPLE_RATE, np.float32)
    path = film(tmp_path / "a.mkv", [scene((8, 200, number % 2), size=(100, 80)) for number in range(30 * 25)], wave)
    with Recording(path, detector=Squares()) as recording:
        held = []
        gc.collect()
        before = frames_alive()
        gc.disable()  # nothing may wait for it: it does not see the size of a frame
        tracemalloc.start()
        try:
            sound = recording.sound()
            next(sound)
            for start in range(30):
                assert len(recording.mouth(start, start + 1)) == 25
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            gc.enable()
        assert frames_alive() < before + 15
    # A second of crops is 230 kB.
    assert max(held[20:]) < max(held[3:8]) + 500_000


@pytest.mark.skipif(not TALKING.is_file(), reason="no talking face")
def test_a_real_face_is_nearly_where_every_frame_has_it(monkeypatch):
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)
    clip = load_clip(TALKING)
    with Recording(TALKING) as recording:
        mouth = recording.mouth(0, 3)
    assert mouth.shape == clip.mouth.shape
    assert np.abs(mouth.astype(int) - clip.mouth).mean() < 2


def test_without_a_detector_a_long_recording_is_heard(tmp_path, monkeypatch):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "bad.onnx"))
    path = write(tmp_path / "a.mkv", [scene((50, 200, 0))] * 25, wave=np.ones(16000, np.float32) / 2)
    with Recording(path) as recording:
        assert (recording.has_sound, recording.has_mouth) == (True, False)
        (warning,) = recording.warnings
    assert warning.startswith(f"{path}: {tmp_path / 'bad.onnx'} is not a face detector that OpenCV can read")
    with pytest.raises(MomeError, match="is not a face detector"):
        Recording(path, audio=False)


def test_an_hour_of_video_is_no_limit_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("mome.media.reading.LONGEST_VIDEO", 2.0)
    path = film(tmp_path / "a.mkv", [scene((50, 200, 0))] * 75)
    with pytest.raises(MomeError, match=r"its video lasts 3\.00 s, longer than the 2 s"):
        load_clip(path, detector=Squares())
    with Recording(path, detector=Squares()) as recording:
        assert len(recording.mouth(0, 3)) == 75
    monkeypatch.setattr("mome.media.recording.LONGEST_SOUND", 2.0)
    with pytest.raises(MomeError, match=r"its video lasts 3\.00 s, longer than the 2 s"):
        Recording(path)
