"""Faces: the detector's file, following, choosing, and whole clips with one, two or no face."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mome.errors import MomeError
from mome.media import load_clip
from mome.media.face import (
    DETECTOR,
    DETECTOR_VARIABLE,
    Face,
    FaceDetector,
    check_detector,
    choose,
    detector_path,
    follow,
)

from .builders import TALKING, click, write

needs_data = pytest.mark.skipif(not TALKING.is_file(), reason="no talking face")

PICTURE = np.zeros((120, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def talking() -> list[np.ndarray]:
    """25 BGR frames, 360 x 288, in the middle of a spoken sentence."""
    with av.open(str(TALKING)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)][20:45]


@pytest.fixture(autouse=True)
def _bundled(monkeypatch):
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)


def face(x: float, y: float = 100.0, size: float = 80.0, mouth: np.ndarray | None = None) -> Face:
    shape = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    mouth = (np.indices((30, 30)).sum(axis=0) * 4).astype(np.uint8) if mouth is None else mouth
    return Face(np.array([x, y, size, size]), shape * size + (x, y), mouth)


def lively(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (30, 30), dtype=np.uint8)


def test_faces_that_cross_keep_their_tracks():
    found = [[face(20 + 8 * k, y=100), face(420 - 8 * k, y=230)][:: 1 if k % 2 else -1] for k in range(50)]
    tracks = follow(found)
    assert [len(track.frames) for track in tracks] == [50, 50]
    assert all(len({f.centre[1] for f in track.faces}) == 1 for track in tracks)


def test_a_short_absence_does_not_break_a_track():
    found = [[face(50)] if not 10 <= k < 20 else [] for k in range(40)]
    (track,) = follow(found)
    speaker = choose([track], 40)
    assert speaker.people == 1
    (shot,) = speaker.points(40)
    assert np.isnan(shot[10:20]).all()
    assert not np.isnan(shot[:10]).any()


def test_false_alarms_are_neither_faces_nor_second_faces():
    found = [[face(50)] + ([face(300)] if k in (7, 8) else []) for k in range(40)]
    assert choose(follow(found), 40).people == 1
    assert choose(follow([[face(300)] if k in (7, 8) else [] for k in range(40)]), 40) is None
    assert choose([], 40) is None


def test_the_larger_face_is_chosen_unless_the_other_speaks():
    rng = np.random.default_rng(0)
    still = [[face(50, size=100), face(300, size=80)] for _ in range(40)]
    speaker = choose(follow(still), 40)
    assert (speaker.people, speaker.moves_most) == (2, False)
    assert speaker.across == pytest.approx(100)
    spoken = [[face(50, size=100), face(300, size=80, mouth=lively(rng))] for _ in range(40)]
    speaker = choose(follow(spoken), 40)
    assert (speaker.people, speaker.moves_most) == (2, True)
    assert speaker.across == pytest.approx(340)


def test_a_small_face_behind_is_not_chosen_however_it_moves():
    rng = np.random.default_rng(0)
    found = [[face(50, size=200), face(300, size=30, mouth=lively(rng))] for _ in range(40)]
    assert not choose(follow(found), 40).moves_most


def test_cuts_are_followed_without_sliding_from_one_place_to_the_other():
    found = [[face(50)] if k < 18 else [face(400)] if k >= 22 else [] for k in range(40)]
    speaker = choose(follow(found), 40)
    assert speaker.people == 1
    first, second = speaker.points(40)
    assert (len(first), len(second)) == (20, 20)
    assert np.nanmax(first[:, :, 0]) < 150
    assert np.nanmin(second[:, :, 0]) > 350


@needs_data
def test_one_face_gives_a_centred_mouth_and_no_word_on_stderr(talking, tmp_path, capfd):
    path = write(tmp_path / "a.mp4", talking, wave=click(1, 0.5, 16000), video_codec="libx264", audio_codec="aac")
    clip = load_clip(path)
    assert clip.mouth.shape == (25, 96, 96)
    assert clip.warnings == ()
    # While one speaks, the picture changes most where the lips are.
    change = np.abs(np.diff(clip.mouth.astype(float), axis=0)).mean(axis=0)
    assert change[40:72, 24:72].mean() > 2 * change[:16].mean()
    assert capfd.readouterr() == ("", "")


@needs_data
def test_rotated_small_and_large_pictures_give_the_same_mouth(talking, tmp_path):
    few = talking[:6]
    plain = load_clip(write(tmp_path / "a.mkv", few), audio=False).mouth
    turned = [np.ascontiguousarray(np.rot90(frame, -1)) for frame in few]
    phone = write(tmp_path / "b.mp4", turned, video_codec="libx264", rotation=90)
    large = write(tmp_path / "c.mkv", [cv2.resize(frame, None, fx=3, fy=3) for frame in few])
    for path in (phone, large):
        mouth = load_clip(path, audio=False).mouth
        assert mouth.shape == plain.shape
        # The detector's points move by some pixels with the size of the picture, never by more than these.
        for crop, expected in zip(mouth, plain, strict=True):
            assert cv2.matchTemplate(crop, expected[7:-7, 7:-7], cv2.TM_CCOEFF_NORMED).max() > 0.85


@needs_data
@pytest.mark.parametrize("speaker", ["left", "right"])
def test_of_two_faces_the_speaking_one_is_read(talking, tmp_path, speaker):
    silent = [talking[0]] * len(talking)
    pair = (talking, silent) if speaker == "left" else (silent, talking)
    frames = [np.hstack(both) for both in zip(*pair, strict=True)]
    clip = load_clip(write(tmp_path / "a.mkv", frames), audio=False)
    (warning,) = clip.warnings
    assert "2 faces" in warning
    assert f"on the {speaker}" in warning
    assert np.abs(np.diff(clip.mouth.astype(int), axis=0)).mean() > 0.5


@needs_data
def test_of_two_speaking_faces_the_larger_is_read(talking, tmp_path):
    small = [cv2.copyMakeBorder(cv2.resize(f, (180, 144)), 72, 72, 0, 0, cv2.BORDER_REPLICATE) for f in talking]
    frames = [np.hstack(both) for both in zip(small, talking, strict=True)]
    (warning,) = load_clip(write(tmp_path / "a.mkv", frames), audio=False).warnings
    assert "2 faces" in warning
    assert "in the middle that is largest" in warning


@needs_data
def test_no_face_leaves_the_sound(tmp_path):
    frames = [np.full((120, 160), 90, np.uint8)] * 10
    path = write(tmp_path / "a.mkv", frames, wave=click(0.4, 0.2, 16000))
    clip = load_clip(path)
    assert clip.mouth is None
    assert "no face found" in clip.warnings[0]
    with pytest.raises(MomeError, match="no face found"):
        load_clip(path, audio=False)


@needs_data
def test_a_face_hidden_for_a_while_is_bridged_and_reported_if_long(talking, tmp_path):
    wall = np.full_like(talking[0], 90)
    short = [wall if 10 <= k < 15 else frame for k, frame in enumerate(talking)]
    clip = load_clip(write(tmp_path / "a.mkv", short), audio=False)
    assert len(clip.mouth) == 25
    assert clip.warnings == ()
    long = [frame if k < 8 else wall for k, frame in enumerate(talking)]
    (warning,) = load_clip(write(tmp_path / "b.mkv", long), audio=False).warnings
    assert "32 %" in warning


def test_chosen_detector_must_be_a_detector(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "none.onnx"))
    with pytest.raises(MomeError, match=r"MOME_FACE_DETECTOR names .*none\.onnx"):
        detector_path()
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "bad.onnx"))
    with pytest.raises(MomeError, match="not a face detector"):
        FaceDetector()(PICTURE)
    with pytest.raises(MomeError, match="not a face detector"):
        check_detector()
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path))
    with pytest.raises(MomeError, match="which is not a file"):
        check_detector()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv(DETECTOR_VARIABLE, str(DETECTOR))
    check_detector()


@pytest.mark.speech
def test_another_network_is_no_face_detector(monkeypatch, capfd):
    other = distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k_sequence.onnx")
    monkeypatch.setenv(DETECTOR_VARIABLE, str(other))
    with pytest.raises(MomeError, match=r"silero_vad_16k_sequence\.onnx is not a face detector"):
        check_detector()
    assert capfd.readouterr() == ("", "")


def test_a_file_that_cannot_be_opened_is_no_face_detector(tmp_path, monkeypatch):
    def closed(self: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv(DETECTOR_VARIABLE, str(DETECTOR))
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(MomeError, match=r"which cannot be read \(Permission denied\)"):
        check_detector()


def test_the_bundled_detector_is_the_published_file_with_its_licence():
    """The digest is the one that the OpenCV Zoo gives for face_detection_yunet_2023mar.onnx."""
    path = detector_path()
    digest = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    licence = path.with_name(f"{path.stem}.LICENSE.txt").read_text("utf-8")
    assert "MIT License\n\nCopyright (c) 2020 Shiqi Yu" in licence


def test_without_a_detector_the_sound_is_read(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "none.onnx"))
    film = write(tmp_path / "a.mkv", [PICTURE] * 3, wave=click(0.2, 0.1, 16000))
    clip = load_clip(film)
    assert clip.mouth is None
    assert len(clip.audio) == 3200
    (warning,) = clip.warnings
    assert warning == (
        f"{film}: MOME_FACE_DETECTOR names {tmp_path / 'none.onnx'}, which is not a file: correct it, or unset it, "
        "so only the sound can be used"
    )
    for mute, options in ((film, {"audio": False}), (write(tmp_path / "b.mkv", [PICTURE] * 3), {})):
        with pytest.raises(MomeError, match=r"MOME_FACE_DETECTOR names .*none\.onnx"):
            load_clip(mute, **options)
    assert capfd.readouterr() == ("", "")


def in_threads(work, threads=4):
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(threads)]]


def test_each_thread_has_a_network_of_its_own(tmp_path, monkeypatch):
    """OpenCV's looks at the picture of another thread, or fails from then on."""
    made = []

    class Network:
        def __init__(self):
            self.owner, self.size = threading.get_ident(), None
            made.append(self)

        def setInputSize(self, size):
            assert threading.get_ident() == self.owner
            self.size = size

        def detect(self, picture):
            assert (threading.get_ident(), self.size) == (self.owner, picture.shape[1::-1])
            return 1, None

    path = tmp_path / "net.onnx"
    path.touch()
    monkeypatch.setenv(DETECTOR_VARIABLE, str(path))
    monkeypatch.setattr("mome.media.face.cv2.FaceDetectorYN.create", lambda *_: Network())
    level, detector, together = cv2.utils.logging.getLogLevel(), FaceDetector(), threading.Barrier(4)

    def work():
        together.wait()
        return [detector(picture) for picture in (PICTURE, PICTURE[:20], PICTURE) for _ in range(20)]

    assert in_threads(work) == [[[]] * 60] * 4
    assert len(made) == 4
    assert cv2.utils.logging.getLogLevel() == level


def test_threads_see_what_one_sees(monkeypatch):
    detector, random = FaceDetector(), np.random.default_rng(0)
    pictures = [random.integers(0, 255, (size, 2 * size, 3), np.uint8) for size in (90, 160, 90)]
    monkeypatch.setattr("mome.media.face._SCORE", 0.01)  # noise has faces then
    alone = [[face.box.tolist() for face in detector(picture)] for picture in pictures]
    assert any(alone)
    detected = in_threads(lambda: [[[f.box.tolist() for f in detector(p)] for p in pictures] for _ in range(5)])
    assert detected == [[alone] * 5] * 4


def test_mouth_crops_need_no_detector(monkeypatch, tmp_path):
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "none.onnx"))
    crop = write(tmp_path / "crop.mkv", [np.zeros((96, 96), np.uint8)] * 3)
    assert load_clip(crop, audio=False).mouth is not None
    film = write(tmp_path / "film.mkv", [PICTURE] * 3, wave=click(0.2, 0.1, 16000))
    assert load_clip(film, video=False).audio is not None
