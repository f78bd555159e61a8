"""Whether a mouth moves, and where to cut a video in which one speaks into pieces: for lips without sound.

The motion of a frame is what the best shift of the frame before does not explain of it, as a share of the contrast of
the mouth's region. Speech on GRID has 0.02 to 0.06 in the mean of half a second, a closed mouth less than 0.01
(docs/media.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import cv2
import numpy as np

from mome.clip import FRAME_RATE, MOUTH_SIZE
from mome.media.mouth import moving_average
from mome.media.speech import FRAME_SECONDS, Cutter, Piece

MOVING = 0.01
"""The least motion, in the mean of half a second, of a mouth that speaks."""

# Rows and columns of a crop that the lips of all speakers stay in.
_ROWS, _COLUMNS = slice(28, 80), slice(16, 80)
# Pixels that the crop may shift from frame to frame, and of the blur before comparing.
_SHIFT, _BLUR = 4, 1.0
# Grey levels of noise: contrast below that is none.
_NOISE = 6.0
# More motion than this from one frame to the next is a jump. At a cut of the film a jump is alone: it counts no more
# than the most motion within four frames of it, as the frames of a slow camera change in every second to fourth frame.
_JUMP, _NEAR = 0.1, 4
# Motion is averaged over +-6 frames.
_RADIUS = 6
# Seconds of motion, so averaged, below which a mouth has not spoken.
_LEAST = 0.3
# Seconds that pieces have in common where the mouth does not rest between them: a word or two.
_OVERLAP = 1.0
# Frames that are searched for motion together.
_SPAN = 2 * FRAME_RATE
# Frames by which a piece may begin earlier than its length before the last frame read.
_BEHIND = 3 * FRAME_RATE


def mouth_motion(crops: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """How much a mouth moves from frame to frame: (frames, 96, 96) uint8 to (frames,) float32, 0 if it is frozen.

    ``before`` is the (96, 96) frame before the first one, whose motion is 0 otherwise. Brightness, contrast and shifts
    of the crop by a few pixels do not count.
    """
    motion = np.zeros(len(crops), np.float32)
    last = None if before is None else _region(before)
    for number, crop in enumerate(crops):
        region = _region(crop)
        if last is not None:
            motion[number] = _change(last, region)
        last = region
    return motion


def _region(crop: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(crop.astype(np.float32), (0, 0), _BLUR)[_ROWS, _COLUMNS]


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """1 - correlation of the middle of ``before`` with where it is in ``after``; noise on an even area is none."""
    if np.array_equal(before, after):
        return 0.0
    core = before[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
    height, width = core.shape
    _, _, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(after, core, cv2.TM_CCOEFF_NORMED))
    found = after[y : y + height, x : x + width]
    first, second = core - core.mean(), found - found.mean()
    common, contrast = float((first * second).mean()), float(np.sqrt((first**2).mean() * (second**2).mean()))
    return max(1 - (common + _NOISE**2) / (contrast + _NOISE**2), 0.0)


class MotionCutter:
    """Cuts a video into pieces by the motion of its mouth, as it arrives: see :func:`cut_by_motion`."""

    def __init__(self, longest: float):
        self._cutter = Cutter(longest, least=_LEAST, overlap=_OVERLAP)
        self._recent: np.ndarray = np.zeros(_RADIUS + _NEAR)  # still before the first frame
        self._frames = 0  # whose mean is known

    def of(self, motion: np.ndarray) -> list[Piece]:
        """Take the motion of the next frames, (frames,); returns the pieces that are now complete."""
        self._recent = np.concatenate([self._recent, motion])
        width = 2 * _RADIUS + 1
        if len(self._recent) < width + 2 * _NEAR:
            return []
        means = np.convolve(_without_cuts(self._recent)[_NEAR:-_NEAR], np.full(width, 1 / width), mode="valid")
        self._recent = self._recent[len(means) :]
        # The cutter's frames are shorter: each takes the value of the video frame shown at its start.
        first, last = (
            int(np.ceil(count / FRAME_RATE / FRAME_SECONDS)) for count in (self._frames, self._frames + len(means))
        )
        shown = (np.arange(first, last) * FRAME_SECONDS * FRAME_RATE).astype(int) - self._frames
        self._frames += len(means)
        return self._cutter.of(0.5 * means[shown] / MOVING)

    def rest(self) -> list[Piece]:
        """The end of the video: returns the remaining pieces."""
        pieces = self.of(np.zeros(_RADIUS + _NEAR))
        return pieces + self._cutter.rest(self._frames / FRAME_RATE)


def cut_by_motion(motion: np.ndarray, longest: float) -> list[Piece]:
    """Pieces of at most ``longest`` seconds that hold all motion (frames,) of a mouth; none if it is still.

    A piece ends where the mouth rests for half a second, or else where it is stillest, and then has a second around
    that in common with the next one: the rules are those of :class:`mome.media.speech.Cutter`, with :data:`MOVING` in
    place of a probability of 0.5.
    """
    cutter = MotionCutter(longest)
    return cutter.of(motion) + cutter.rest()


def moving(
    mouth: Callable[[float, float], np.ndarray | None], seconds: float, longest: float
) -> Iterator[tuple[Piece, np.ndarray]]:
    """:func:`cut_by_motion` while a video is read: the pieces with their crops (frames, 96, 96) uint8.

    Args:
        mouth: gives the crops between two times in seconds, asked for in order; ``None`` where there are none, which
            counts as still.
        seconds: length of the video.
        longest: seconds of the longest piece.
    """
    cutter, before, read = MotionCutter(longest), None, 0
    crops: np.ndarray = np.empty((0, MOUTH_SIZE, MOUTH_SIZE), np.uint8)

    def with_crops(pieces: list[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
        for piece in pieces:
            first, last = (round(time * FRAME_RATE) - read + len(crops) for time in (piece.start, piece.end))
            yield piece, crops[first:last]

    while read < seconds * FRAME_RATE:
        seen = mouth(read / FRAME_RATE, (read + _SPAN) / FRAME_RATE)
        motion = np.zeros(_SPAN) if seen is None else mouth_motion(seen, before)
        if seen is None:
            seen = np.zeros((len(motion), MOUTH_SIZE, MOUTH_SIZE), np.uint8)
        read, before = read + len(seen), seen[-1]
        crops = np.concatenate([crops, seen])
        yield from with_crops(cutter.of(motion))
        crops = crops[max(len(crops) - _BEHIND - int(min(longest, seconds) * FRAME_RATE), 0) :]
    yield from with_crops(cutter.rest())


def moves(crops: np.ndarray) -> bool:
    """Whether the mouth of (frames, 96, 96) uint8 crops speaks, as far as its motion tells."""
    return bool(cut_by_motion(mouth_motion(crops), inf))


def speaking(crops: np.ndarray) -> np.ndarray:
    """How likely a mouth speaks, from 0 to 1, in each frame of :mod:`mome.media.speech`: (frames,) float32.

    One half where the motion, in the mean of half a second, is :data:`MOVING`.
    """
    frames = round(len(crops) / FRAME_RATE / FRAME_SECONDS)
    if not len(crops):
        return np.zeros(frames, np.float32)
    times = (np.arange(frames) + 0.5) * FRAME_SECONDS * FRAME_RATE - 0.5
    relative = np.interp(times, np.arange(len(crops)), _mean_motion(crops)) / MOVING
    likely: np.ndarray = np.minimum(0.5 * relative, 1).astype(np.float32)
    return likely


def moving_seconds(crops: np.ndarray) -> float:
    """For how many seconds the mouth of (frames, 96, 96) uint8 crops moves as if it spoke."""
    return float((_mean_motion(crops) >= MOVING).sum()) / FRAME_RATE


def _mean_motion(crops: np.ndarray) -> np.ndarray:
    """(frames,): the motion of each frame, in the mean of half a second."""
    if not len(crops):
        return np.zeros(0)
    mean: np.ndarray = moving_average(_without_cuts(mouth_motion(crops)), _RADIUS)
    return mean


def _without_cuts(motion: np.ndarray) -> np.ndarray:
    """The motion of each frame (frames,), where that of a jump is the most of the frames around it."""
    most = np.minimum(motion, _JUMP)
    padded = np.pad(most, _NEAR)
    around = [padded[place : place + len(motion)] for place in range(2 * _NEAR + 1) if place != _NEAR]
    steady: np.ndarray = np.where(motion > _JUMP, np.max(around, axis=0), most)
    return steady
