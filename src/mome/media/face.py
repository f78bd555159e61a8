"""Faces: detected in a picture, followed through the frames of a video, and the speaker chosen."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from mome.errors import MomeError, reason

DETECTOR = Path(__file__).with_name("face_detection_yunet_2023mar.onnx")
DETECTOR_VARIABLE = "MOME_FACE_DETECTOR"
"""Names another detector of the same kind."""

DETECTION_SIZE = 640
"""Longest side in pixels of the pictures passed to the detector."""

_SCORE = 0.6
# Mouth regions of successive frames are compared where they fit best within +-3 of their pixels: the points jitter,
# those of small faces most.
_PATCH, _JITTER = 30, 3
# A track is continued over at most one second without the face.
_PATIENCE = 25
# A track of fewer frames, or of a smaller share of the clip, is a false alarm or a passer-by.
_MIN_FRAMES, _MIN_PART = 5, 0.2
# Tracks whose weight is at least this share of the heaviest one's compete with it to be the speaker.
_RIVAL = 0.3
# The mouth that moves most must move this many times as much as that of the largest face to be preferred. Motion
# measured on faces of 30 to 110 pixels: speaking 0.011 to 0.034, silent 0.003 to 0.012.
_MORE_MOTION = 1.8
_STILL = 0.003


@dataclass(frozen=True)
class Face:
    """One face in one frame, in pixels of the upright picture."""

    box: np.ndarray
    """(4,) float: left, top, width, height."""
    points: np.ndarray
    """(5, 2) float: right eye, left eye, nose tip, right and left mouth corner."""
    mouth: np.ndarray | None
    """(30, 30) uint8: the grey region around the mouth, two mouths wide; None if it was not looked at."""

    @property
    def centre(self) -> np.ndarray:
        """(2,) centre of the box."""
        return self.box[:2] + self.box[2:] / 2

    @property
    def size(self) -> float:
        """Side in pixels of a square with the area of the box."""
        return float(np.sqrt(max(self.box[2] * self.box[3], 1.0)))


@dataclass(eq=False)
class Track:
    """One person's face through the clip."""

    frames: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """Number of frames in which the face was found, times its mean side in pixels."""
        return float(sum(face.size for face in self.faces))

    @property
    def across(self) -> float:
        """Mean horizontal position of the face in pixels."""
        return float(np.mean([face.centre[0] for face in self.faces]))

    @property
    def motion(self) -> float:
        """Mean change of the mouth region between successive frames that have it, 1 - correlation."""
        changes = [
            1 - float(cv2.matchTemplate(after.mouth, _core(before.mouth), cv2.TM_CCOEFF_NORMED).max())
            for first, second, before, after in zip(
                self.frames, self.frames[1:], self.faces, self.faces[1:], strict=False
            )
            if second == first + 1 and before.mouth is not None and after.mouth is not None
        ]
        return float(np.mean(changes)) if changes else 0.0


_T = TypeVar("_T", bound=Track)


class DetectorError(MomeError):
    """The face detector that the user named cannot be used."""


def detector_path() -> Path:
    """The face detector's file: the one that ``MOME_FACE_DETECTOR`` names, else the bundled one.

    Raises:
        DetectorError: the variable names no file that can be read.
    """
    chosen = os.environ.get(DETECTOR_VARIABLE)
    if not chosen:
        return DETECTOR
    path = Path(chosen).expanduser()
    if not path.is_file():
        raise DetectorError(f"{DETECTOR_VARIABLE} names {path}, which is not a file: correct it, or unset it")
    try:
        path.open("rb").close()
    except OSError as error:
        raise DetectorError(
            f"{DETECTOR_VARIABLE} names {path}, which cannot be read ({reason(error)}): correct it, or unset it"
        ) from error
    return path


def check_detector() -> None:
    """Raise :class:`DetectorError` if ``MOME_FACE_DETECTOR`` is set and its detector cannot be used."""
    if os.environ.get(DETECTOR_VARIABLE):
        FaceDetector()(np.zeros((32, 32, 3), np.uint8))


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's messages about its own engines."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


# Held while loading: OpenCV's log level is global.
_LOADING = threading.Lock()


class FaceDetector:
    """The YuNet face detector of OpenCV, loaded at its first picture: ready mouth crops and sound do without it.

    A detector serves any number of clips and threads. OpenCV's network must not be shared between threads, not even
    in turn, so each thread loads its own.
    """

    def __init__(self) -> None:
        self._nets = threading.local()

    def __call__(self, picture: np.ndarray, scale: float = 1.0) -> list[Face]:
        """Detect the faces of a (height, width, 3) BGR picture; their coordinates are multiplied by ``scale``.

        Raises :class:`DetectorError` if there is no detector.
        """
        height, width = picture.shape[:2]
        net = self._loaded()
        net.setInputSize((width, height))
        rows = net.detect(picture)[1]
        return [] if rows is None else [_face(row, picture, scale) for row in rows if np.isfinite(row).all()]

    def _loaded(self) -> cv2.FaceDetectorYN:
        """This thread's network."""
        net = getattr(self._nets, "net", None)
        if net is None:
            with _LOADING:
                path = detector_path()
                try:
                    with _quiet_opencv():
                        net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), _SCORE)
                        net.setInputSize((320, 320))
                        net.detect(np.zeros((320, 320, 3), np.uint8))  # another network fails here
                except cv2.error:
                    raise DetectorError(
                        f"{path} is not a face detector that OpenCV can read: unset {DETECTOR_VARIABLE} to use the "
                        "bundled one"
                    ) from None
                self._nets.net = net
        return net


def _face(row: np.ndarray, picture: np.ndarray, scale: float) -> Face:
    points = row[4:14].reshape(5, 2).astype(float)
    mouth = cv2.cvtColor(mouth_region(picture, points), cv2.COLOR_BGR2GRAY)
    return Face(row[:4].astype(float) * scale, points * scale, mouth)


def mouth_region(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The region around the mouth, two mouths wide, of a uint8 picture: (30, 30), and colours where it has some.

    ``points``: (5, 2) of the face, in pixels of the picture.
    """
    x, y = points[3:].mean(axis=0)
    half = max(float(np.linalg.norm(points[4] - points[3])), 2.0)
    zoom = _PATCH / (2 * half)
    matrix = np.array([[zoom, 0, zoom * (half - x)], [0, zoom, zoom * (half - y)]])
    return cv2.warpAffine(picture, matrix, (_PATCH, _PATCH), borderMode=cv2.BORDER_REPLICATE)


def _core(mouth: np.ndarray) -> np.ndarray:
    return mouth[_JITTER:-_JITTER, _JITTER:-_JITTER]


def detection_size(size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """(width, height) of the picture to detect faces in, for one of ``size``, and the factor back to that."""
    shrink = min(DETECTION_SIZE / max(size), 1.0)
    return (max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1)), 1 / shrink


def follow(found: list[list[Face]]) -> list[Track]:
    """Join the faces of successive frames into tracks, nearest first; heaviest track first."""
    tracks: list[Track] = []
    for frame, faces in enumerate(found):
        tracks += [Track([frame], [face]) for face in continue_tracks(tracks, frame, faces)]
    return by_weight(tracks)


def continue_tracks(tracks: Sequence[Track], frame: int, faces: list[Face]) -> list[Face]:
    """Join the faces of the next frame to the tracks so far, nearest first; returns those that are new."""
    pairs = []
    for t, track in enumerate(tracks):
        last = track.faces[-1]
        if frame - track.frames[-1] > _PATIENCE:
            continue
        for f, face in enumerate(faces):
            distance = float(np.linalg.norm(face.centre - last.centre)) / last.size
            if distance < 0.5 and 0.5 < face.size / last.size < 2:
                pairs.append((distance, t, f))
    joined_tracks, joined_faces = set(), set()
    for _, t, f in sorted(pairs):
        if t not in joined_tracks and f not in joined_faces:
            joined_tracks.add(t)
            joined_faces.add(f)
            tracks[t].frames.append(frame)
            tracks[t].faces.append(faces[f])
    return [face for f, face in enumerate(faces) if f not in joined_faces]


def by_weight(tracks: Iterable[_T]) -> list[_T]:
    """The tracks, heaviest first."""
    return sorted(tracks, key=lambda track: -track.weight)


@dataclass(frozen=True)
class Speaker(Generic[_T]):
    """The face to read: one track, or several in a row if the video has cuts."""

    tracks: tuple[_T, ...]
    """In order of time, without overlap."""
    people: int
    """Largest number of faces at the same time, without false alarms."""
    moves_most: bool
    """Whether it was preferred to a larger face because its mouth moves more."""

    @property
    def frames(self) -> int:
        """Number of frames in which the face was found."""
        return sum(len(track.frames) for track in self.tracks)

    @property
    def across(self) -> float:
        """Mean horizontal position of the face in pixels."""
        return float(np.mean([face.centre[0] for track in self.tracks for face in track.faces]))

    def shots(self, frames: int) -> Iterator[tuple[_T, int, int]]:
        """The track, the first frame and the end of each shot; the cut between two tracks is set half-way.

        All shots together have ``frames`` frames.
        """
        cuts = [
            (before.frames[-1] + after.frames[0] + 1) // 2
            for before, after in zip(self.tracks, self.tracks[1:], strict=False)
        ]
        return zip(self.tracks, [0, *cuts], [*cuts, frames], strict=True)

    def points(self, frames: int) -> Iterator[np.ndarray]:
        """The five points of each shot, (frames of the shot, 5, 2) float, NaN where the face was not found."""
        for track, start, end in self.shots(frames):
            shot = np.full((end - start, 5, 2), np.nan)
            shot[np.array(track.frames) - start] = [face.points for face in track.faces]
            yield shot


def choose(
    tracks: Sequence[_T], frames: int, face: str = "largest", before: Collection[Track] = ()
) -> Speaker[_T] | None:
    """Choose the speaker among the tracks (heaviest first) of a clip of ``frames`` frames; None if no face lasts.

    Args:
        tracks, frames: see above.
        face: ``"largest"`` for the largest and most persistent face, unless the mouth of a comparable face moves
            clearly more; ``"left"`` or ``"right"`` for the outermost of comparable faces.
        before: tracks of who spoke before, who stays the speaker among comparable faces unless another's mouth moves
            clearly more.
    """
    real = [track for track in tracks if len(track.frames) >= min(_MIN_FRAMES, frames)]
    if not real:
        return None
    best = real[0]
    rivals = [track for track in real if track.weight >= _RIVAL * best.weight and _overlap(track, best)]
    best, order, moves_most = next((track for track in rivals if track in before), best), real, False
    if face == "largest":
        liveliest = max(rivals, key=lambda track: track.motion) if len(rivals) > 1 else best
        moves_most = liveliest.motion > _MORE_MOTION * max(best.motion, _STILL)
        best = liveliest if moves_most else best
    else:
        side = 1 if face == "left" else -1
        comparable = [track for track in real if track in rivals or not _overlap(track, best)]
        comparable = [track for track in comparable if len(track.frames) >= _MIN_PART * frames] or [best]
        order = [*sorted(comparable, key=lambda track: side * track.across), *real]
        best = order[0]
    chosen = [best]
    for track in order:
        if not any(_overlap(track, other) for other in chosen):
            chosen.append(track)
    chosen.sort(key=lambda track: track.frames[0])
    lasting = [track for track in real if track in chosen or len(track.frames) >= _MIN_PART * frames]
    people = np.bincount(np.concatenate([track.frames for track in lasting])).max()
    return Speaker(tuple(chosen), int(people), moves_most)


def _overlap(first: Track, second: Track) -> bool:
    """Whether two tracks overlap in time."""
    return first.frames[0] <= second.frames[-1] and second.frames[0] <= first.frames[-1]
