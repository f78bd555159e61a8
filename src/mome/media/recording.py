"""A recording of any length, read piece by piece: memory does not grow with its length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import av
import numpy as np

from mome.clip import FRAME_RATE
from mome.errors import MomeError
from mome.media.decode import Damage, naming, probe
from mome.media.face import DetectorError, FaceDetector, check_detector
from mome.media.following import OVERLAP, Mouths
from mome.media.frames import check_video, read_frames, upright
from mome.media.limits import LONGEST_SOUND
from mome.media.motion import moving
from mome.media.reading import LARGEST_CROP, SILENCE, as_crop, picture_size, stream_notes, what_is_left
from mome.media.sound import SoundStream, check_sound
from mome.media.speech import Piece
from mome.media.tracks import Track

FaceChoice = Literal["largest", "left", "right"]
"""Whose mouth is read: the largest face or the one whose mouth moves most, or the outermost one."""


class Recording:
    """The sound and the mouths of a file, both from t = 0 on the clip's clock as :func:`mome.media.load_clip` has them.

    A context manager. Sound and mouths are decoded independently, each once from start to end; the sound once more
    before, to find out how its channels are mixed and how it is scaled.

    Args:
        path: a file of any kind that FFmpeg reads.
        audio, video: whether to read the sound and the mouths.
        audio_track: index of the sound track to read, from 0; by default the file's default track.
        detector: the face detector; pass the same one for several files to load it once.
        face: whose mouth :meth:`mouth` gives.

    Attributes:
        path: the file.
        seconds: length according to its packets.
        has_sound, has_mouth: whether it has sound, and video, that can be read and was asked for.

    Raises:
        MomeError: as :func:`mome.media.load_clip`, here or when the part is read that shows it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        audio: bool = True,
        video: bool = True,
        audio_track: int | None = None,
        detector: FaceDetector | None = None,
        face: FaceChoice = "largest",
    ):
        self.path = Path(path)
        if face not in get_args(FaceChoice):
            raise MomeError(f"{face=} is not possible: choose from {', '.join(get_args(FaceChoice))}")
        with naming(self.path):
            media = self._media = probe(self.path, audio_track)
            if video:
                check_video(media, LONGEST_SOUND)
            if audio:
                check_sound(media, LONGEST_SOUND)
            size = picture_size(media, LONGEST_SOUND) if video else None
        self.has_sound, self.has_mouth = audio and media.audio is not None, size is not None
        missing = ["no sound"] * (audio and not self.has_sound) + ["no video"] * (video and not self.has_mouth)
        if not self.has_sound and not self.has_mouth:
            raise MomeError(f"{self.path}: {' and '.join(missing)}, so {what_is_left(media, audio, video)}")
        rest = "sound" if self.has_sound else "lips"
        self._missing = [f"{self.path}: {lack}, so only the {rest} can be used" for lack in missing]
        ends = [_end(media.audio, media.audio_origin)] if audio else []
        ends += [_end(media.video, media.video_origin)] if video else []
        self.seconds = max(ends)
        self._asked = (0, 0)  # frames of the last span
        self._sound: SoundStream | None = None
        self._sound_damage, self._video_damage = Damage(), Damage()
        self._frames = read_frames(media, self._video_damage, LONGEST_SOUND)
        self._mouths: Mouths | _Crops | None = None
        if size is not None and size[0] == size[1] <= LARGEST_CROP:
            self._mouths = _Crops(self._frames, size)
        elif size is not None:
            try:
                check_detector()
                self._mouths = Mouths(self._frames, size, detector or FaceDetector(), face)
            except DetectorError as error:
                if not self.has_sound:
                    raise
                self.has_mouth = False
                self._missing.append(f"{self.path}: {error}, so only the sound can be used")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; mouths cannot be asked for afterwards."""
        self._frames.close()

    @property
    def warnings(self) -> list[str]:
        """One line each, to be shown to the user; complete when all has been read."""
        notes = [*self._missing]
        if self._sound is not None:
            notes += stream_notes(self._media.audio, self._sound_damage, self.path, "sound")
            if self._sound.peak < SILENCE:
                rest = ", words can come from the lips alone" if self.has_mouth else ""
                notes.append(f"{self.path}: the sound is silent throughout{rest}")
        if self._mouths is not None:
            notes += [f"{self.path}: {note}" for note in self._mouths.notes()]
            notes += self._video_notes()
        return notes

    def sound(self) -> Iterator[np.ndarray]:
        """Blocks of (samples,) float32 at 16 kHz in [-1, 1], of about 30 seconds at most; none without sound.

        Together they are the sound that :func:`mome.media.load_clip` gives, to the bit.
        """
        if not self.has_sound:
            return
        with naming(self.path):
            if self._sound is None:
                self._sound = SoundStream.of(self._media, self._sound_damage)
                stream_notes(self._media.audio, self._sound_damage, self.path, "sound")  # raises if too much is lost
            yield from self._sound or ()

    def mouth(self, start: float, end: float) -> np.ndarray | None:
        """The speaker's mouth from ``start`` to ``end`` seconds, or to the end of the video: (frames, 96, 96) uint8.

        Spans are asked for in ascending order and overlap by at most a second. The speaker is the face that was it
        before, unless it has gone or another one is clearly larger or moves its mouth more. None if the face is seen
        in less than half of the frames, or there is no more video.
        """
        if self._mouths is None:
            return None
        with self._span(start, end) as (first, last):
            return self._mouths.mouth(first, last)

    def mouths(self, start: float, end: float) -> dict[int, np.ndarray]:
        """The mouths of all faces that are seen in half of a span, from left to right, by the number of the person.

        Otherwise as :meth:`mouth`. A person keeps the number while the face is followed, and when a face comes back to
        the place where it was.
        """
        if self._mouths is None:
            return {}
        with self._span(start, end) as (first, last):
            return self._mouths.mouths(first, last)

    def moving(self, longest: float) -> Iterator[tuple[Piece, np.ndarray]]:
        """The pieces of at most ``longest`` seconds in which the speaker's mouth moves, with their crops.

        See :func:`mome.media.motion.cut_by_motion`. Crops are (frames, 96, 96) uint8. Nothing else of the video can be
        asked for then.
        """
        return moving(self.mouth, self.seconds, longest)

    @contextmanager
    def _span(self, start: float, end: float) -> Iterator[tuple[int, int]]:
        """The frames of the next span, while it is read."""
        first, last = round(start * FRAME_RATE), round(end * FRAME_RATE)
        if first < max(self._asked[0], self._asked[1] - OVERLAP):
            raise ValueError(f"the span from {start} to {end} s comes too late: later ones were asked for")
        self._asked = (first, last)
        with naming(self.path):
            yield first, last
            self._video_notes()  # raises if too much is lost

    def _video_notes(self) -> list[str]:
        """Warnings about the video; raises :class:`MomeError` if more was lost than may be lost in all."""
        assert self._media.video is not None
        damage = replace(self._video_damage, packets=self._media.video.clock.packets)
        return stream_notes(self._media.video, damage, self.path, "video")


def _end(track: Track | None, origin: float) -> float:
    """Seconds at which a track ends, by its packets; a guess if they have no times."""
    if track is None:
        return 0.0
    return track.clock.end - origin if isfinite(track.clock.end) else track.clock.packets / FRAME_RATE


class _Crops:
    """A video that is mouth crops already, in the place of :class:`Mouths`."""

    def __init__(self, frames: Iterator[av.VideoFrame], size: tuple[int, int]):
        self._frames, self._size = frames, size
        self._crops: deque[np.ndarray] = deque()  # up to frame _read
        self._read = 0

    def mouth(self, first: int, last: int) -> np.ndarray | None:
        if first > self._read:
            self._read += sum(1 for _ in islice(self._frames, first - self._read))
            self._crops.clear()
        for frame in islice(self._frames, max(last - self._read, 0)):
            self._crops.append(as_crop(upright(frame, self._size, "gray")))
            self._read += 1
        begin = self._read - len(self._crops)
        crops = list(islice(self._crops, first - begin, last - begin))
        for _ in range(max(len(self._crops) - OVERLAP, 0)):
            self._crops.popleft()
        return np.stack(crops) if crops else None

    def mouths(self, first: int, last: int) -> dict[int, np.ndarray]:
        crops = self.mouth(first, last)
        return {} if crops is None else {0: crops}

    def notes(self) -> list[str]:
        return []
