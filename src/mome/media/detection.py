"""The faces of a video's frames: detected in every fourth frame and interpolated in between.

Where faces come, go or move quickly between two of those frames, more frames are searched, down to every one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import av
import numpy as np

from mome.media.face import Face, FaceDetector, detection_size, mouth_region
from mome.media.frames import upright

STEP = 4
"""Faces are detected in every ``STEP``-th frame."""

# They are detected in between too if a point moves by more than this many times the face's size.
_QUICK = 0.1

Group = list[tuple[av.VideoFrame, list[Face]]]
"""Up to ``STEP`` successive frames, each with its faces."""


def find_faces(frames: Iterator[av.VideoFrame], size: tuple[int, int], detector: FaceDetector) -> Iterator[Group]:
    """The frames in groups, as many as are read before each group is given, with their faces in pixels of ``size``.

    Args:
        frames: the pictures at 25 a second; the same object again while a frame lasts, which is searched once.
        size: (width, height) of the upright picture.
        detector: finds the faces of a picture.

    Raises:
        DetectorError: the detector cannot be used.
    """
    search = _Search(size, detector)
    while group := list(islice(frames, STEP)):
        yield list(zip(group, search.faces(group), strict=True))


class _Search:
    """The faces of successive groups of frames."""

    def __init__(self, size: tuple[int, int], detector: FaceDetector):
        self._size, self._scale = detection_size(size)
        self._detector = detector
        self._before: list[Face] | None = None  # faces of the last frame of the group before
        self._detected: tuple[av.VideoFrame, list[Face]] | None = None

    def faces(self, group: list[av.VideoFrame]) -> list[list[Face]]:
        """The faces of each of the next frames, of which there is at least one."""
        last = len(group) - 1
        found = {last: self._detect(group[last])}
        if self._before is None:
            found[0] = self._detect(group[0])
        else:
            found[-1] = self._before
        self._fill(found, group, min(found), last)
        self._before = found[last]
        return [found[number] for number in range(len(group))]

    def _fill(self, found: dict[int, list[Face]], group: list[av.VideoFrame], low: int, high: int) -> None:
        """Find the faces of the frames between two whose faces are known."""
        if high - low < 2:
            return
        pairs = _steady(found[low], found[high])
        if pairs is None:
            middle = (low + high) // 2
            found[middle] = self._detect(group[middle])
            self._fill(found, group, low, middle)
            self._fill(found, group, middle, high)
            return
        for number in range(low + 1, high):
            share = (number - low) / (high - low)
            faces = [_between(before, after, share) for before, after in pairs]
            # Among several faces the mouth that moves is looked for, so it must be seen in every frame.
            found[number] = faces if len(faces) < 2 else self._seen(faces, group[number])

    def _detect(self, frame: av.VideoFrame) -> list[Face]:
        """The faces of a frame; one that is repeated is searched once."""
        if self._detected is None or self._detected[0] is not frame:
            self._detected = (frame, self._detector(upright(frame, self._size, "bgr24"), self._scale))
        return self._detected[1]

    def _seen(self, faces: list[Face], frame: av.VideoFrame) -> list[Face]:
        """Interpolated faces with the mouth regions of their own frame."""
        picture = upright(frame, self._size, "gray")
        return [replace(face, mouth=mouth_region(picture, face.points / self._scale)) for face in faces]


def _steady(before: list[Face], after: list[Face]) -> list[tuple[Face, Face]] | None:
    """The same faces in two frames, if they are the same and have not moved quickly."""
    if len(before) != len(after):
        return None
    pairs = []
    for face in before:
        nearest = min(after, key=lambda other: float(np.linalg.norm(other.centre - face.centre)))
        if np.linalg.norm(nearest.points - face.points, axis=1).max() > _QUICK * face.size:
            return None
        pairs.append((face, nearest))
    return pairs if len({id(other) for _, other in pairs}) == len(pairs) else None


def _between(before: Face, after: Face, share: float) -> Face:
    """The face at ``share`` of the way from one frame to another, without the mouth, which nobody has looked at."""
    box = (1 - share) * before.box + share * after.box
    return replace(before, box=box, points=(1 - share) * before.points + share * after.points, mouth=None)
