"""Faces followed through a video of any length while it is decoded, and the crops of their mouths.

Of a frame nothing is kept but the crops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import av
import numpy as np

from mome.clip import FRAME_RATE
from mome.media.detection import STEP, find_faces
from mome.media.face import Face, FaceDetector, Track, by_weight, choose, continue_tracks
from mome.media.frames import upright
from mome.media.motion import mouth_motion
from mome.media.mouth import SHAPE_RADIUS, crop, fill_gaps, smooth

OVERLAP = FRAME_RATE
"""Frames that a span may reach back into the spans before it."""

# Mouths are followed this many frames before a span, so that its first points can be smoothed.
_LEAD = SHAPE_RADIUS + STEP
# A new face is a person seen before if it is within this many of its sizes of where that person was last.
_SAME_PLACE = 1.0
# People whose places are known.
_REMEMBERED = 50


@dataclass(eq=False)
class Followed(Track):
    """One person's face, with crops of the mouth.

    Attributes:
        person: number of the person; a face that comes back to its place has the number that it had.
        crops: (96, 96) uint8 by frame, also for frames without the face between some with it.
    """

    person: int = 0
    crops: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def motion(self) -> float:
        """Mean motion of the mouth, see :func:`mome.media.motion.mouth_motion`."""
        numbers = sorted(number for number in self.crops if self.frames[0] <= number <= self.frames[-1])
        return float(mouth_motion(np.stack([self.crops[number] for number in numbers])).mean()) if numbers else 0.0

    def within(self, first: int, last: int) -> Followed:
        """The part from frame ``first`` to before ``last``, with frames counted from ``first``; all crops."""
        kept = [number for number, frame in enumerate(self.frames) if first <= frame < last]
        crops = {number - first: picture for number, picture in self.crops.items()}
        return Followed([self.frames[k] - first for k in kept], [self.faces[k] for k in kept], self.person, crops)

    def forget(self, first: int) -> None:
        """Forget the frames before ``first``, except the last one of the face."""
        kept = [number for number, frame in enumerate(self.frames) if frame >= first] or [len(self.frames) - 1]
        self.frames, self.faces = self.frames[kept[0] :], self.faces[kept[0] :]
        self.crops = {number: picture for number, picture in self.crops.items() if number >= first}


class Mouths:
    """The mouths of a video, asked for in spans of frames in ascending order, which may overlap by a second.

    Args:
        frames: the pictures at 25 a second; read as far as the spans need.
        size: (width, height) of the upright picture.
        detector: finds the faces of a picture.
        face: whose mouth :meth:`mouth` gives: see :func:`mome.media.face.choose`.
    """

    def __init__(self, frames: Iterator[av.VideoFrame], size: tuple[int, int], detector: FaceDetector, face: str):
        self._frames, self._size, self._detector, self._face = frames, size, detector, face
        self._groups = find_faces(frames, size, detector)
        self._read = self._cropped = 0  # frames read, and those whose crops are made
        self._ended = False
        self._waiting: deque[av.VideoFrame] = deque()  # frames from _cropped to _read
        self._tracks: list[Followed] = []
        self._places: dict[int, Face] = {}  # where each person was last, by recency
        self._people = 0  # numbers given
        self._speaker = -1  # number of who spoke last
        self._asked = self._seen = 0  # frames of all spans, and those of them with the face
        self._together = 0  # largest number of faces at the same time

    def mouth(self, first: int, last: int) -> np.ndarray | None:
        """The speaker's mouth from frame ``first`` to before ``last`` or the end: (frames, 96, 96) uint8.

        None if the video has ended or the face is seen in less than half of the frames.
        """
        parts, frames = self._span(first, last)
        before = [track for track in parts if track.person == self._speaker]
        speaker = choose(parts, frames, self._face, before) if parts else None
        self._asked += frames
        if speaker is None:
            return None
        self._seen += speaker.frames
        self._together = max(self._together, speaker.people)
        self._speaker = speaker.tracks[-1].person
        if speaker.frames < frames / 2:
            return None
        return np.concatenate([_filled(track.crops, start, end) for track, start, end in speaker.shots(frames)])

    def mouths(self, first: int, last: int) -> dict[int, np.ndarray]:
        """The mouths of all people seen in at least half of the frames, from left to right, by their number."""
        parts, frames = self._span(first, last)
        people = {}
        for track in sorted(parts, key=lambda track: track.across):
            own = [other for other in parts if other.person == track.person]
            if track.person not in people and sum(len(other.frames) for other in own) >= frames / 2:
                crops = {number: picture for other in own for number, picture in other.crops.items()}
                people[track.person] = _filled(crops, 0, frames)
        self._asked += frames
        self._seen += frames if people else 0
        return people

    def notes(self) -> list[str]:
        """Notes for the user about the faces of all spans so far."""
        notes = []
        if self._together > 1 and self._face == "largest":
            notes.append(f"{self._together} faces found, using the largest, or the one whose mouth moves most")
        if self._asked and not self._seen:
            notes.append("no face found, so its lips cannot be read")
        elif self._seen < self._asked / 2:
            share = round(100 * self._seen / self._asked)
            notes.append(f"the face is seen in only {share} % of the video, its lips can be read there alone")
        return notes

    def _span(self, first: int, last: int) -> tuple[list[Followed], int]:
        """The faces seen in a span, heaviest first, and the number of its frames that the video has."""
        if first - _LEAD > self._read:
            self._read += sum(1 for _ in islice(self._frames, first - _LEAD - self._read))
            self._cropped = self._read
            self._waiting.clear()
            self._groups = find_faces(self._frames, self._size, self._detector)
        while self._cropped < last and not self._ended:
            self._follow()
        frames = max(min(last, self._read) - first, 0)
        parts = [track.within(first, last) for track in self._tracks]
        parts = by_weight(part for part in parts if part.frames and part.crops)
        for track in self._tracks:
            track.forget(last - OVERLAP)
        self._tracks = [
            track for track in self._tracks if track.crops or track.frames[-1] >= self._cropped - FRAME_RATE
        ]
        return parts, frames

    def _follow(self) -> None:
        """Read a few frames, follow the faces, and make the crops for which enough is known."""
        group = next(self._groups, [])
        self._ended = not group
        for frame, faces in group:
            self._waiting.append(frame)
            for face in continue_tracks(self._tracks, self._read, faces):
                self._tracks.append(Followed([self._read], [face], self._person(face)))
            for track in self._tracks:
                if track.frames[-1] == self._read:
                    self._places.pop(track.person, None)
                    self._places[track.person] = track.faces[-1]
            self._read += 1
        self._crop(self._read if self._ended else max(self._read - SHAPE_RADIUS, self._cropped))

    def _person(self, face: Face) -> int:
        """The number of the person whose face is new: who was last seen there, or another one."""
        here = {track.person for track in self._tracks if track.frames[-1] == self._read}
        distances = [
            (float(np.linalg.norm(face.centre - last.centre)) / last.size, person)
            for person, last in self._places.items()
            if person not in here and 0.5 < face.size / last.size < 2
        ]
        distance, person = min(distances, default=(_SAME_PLACE, 0))
        if distance < _SAME_PLACE:
            return person
        if len(self._places) > _REMEMBERED:
            del self._places[next(iter(self._places))]
        self._people += 1
        return self._people - 1

    def _crop(self, until: int) -> None:
        """Make the crops of the frames up to before ``until``."""
        first = max(self._cropped - SHAPE_RADIUS, 0)
        points = [(track, self._points(track, first, min(until + SHAPE_RADIUS, self._read))) for track in self._tracks]
        shown, grey = None, np.empty(0)
        while self._cropped < until:
            frame, number = self._waiting.popleft(), self._cropped
            for track, own in points:
                five = own[number - first]
                if track.frames[0] <= number <= track.frames[-1] and not np.isnan(five).any():
                    if frame is not shown:
                        shown, grey = frame, upright(frame, self._size, "gray")
                    track.crops[number] = crop(grey, five)
            self._cropped += 1

    def _points(self, track: Followed, first: int, last: int) -> np.ndarray:
        """The smoothed points (frames, 5, 2) of a face, NaN if it is not seen in these frames."""
        points = np.full((last - first, 5, 2), np.nan)
        for frame, face in zip(track.frames, track.faces, strict=True):
            if first <= frame < last:
                points[frame - first] = face.points
        return points if np.isnan(points).all() else smooth(fill_gaps(points))


def _filled(crops: dict[int, np.ndarray], first: int, last: int) -> np.ndarray:
    """The crops from frame ``first`` to before ``last``; where there is none, the nearest one."""
    known = np.array(sorted(crops))
    nearest = known[np.abs(known - np.arange(first, last)[:, None]).argmin(axis=1)]
    return np.stack([crops[number] for number in nearest])
