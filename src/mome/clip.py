"""A clip: sound and mouth video of one recording on one clock, in the form that all models read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
"""Samples of sound a second."""
FRAME_RATE = 25
"""Frames of the mouth video a second."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
MOUTH_SIZE = 96
"""Height and width of a frame in pixels."""
LARGEST_SNR = 100.0
"""Decibels, of either sign: beyond it, speech or noise is below the other's float32 resolution."""


@dataclass(frozen=True)
class Clip:
    """Sound and mouth video of one file, both from t = 0 on; None if the file lacks it or it was not asked for."""

    audio: np.ndarray | None
    """(samples,) float32, 16 kHz mono in [-1, 1]."""
    mouth: np.ndarray | None
    """(frames, 96, 96) uint8 grey at 25 fps."""
    seconds: float
    """Length of the longer of both, see :func:`length`."""
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    """One line each, to be shown to the user."""


@dataclass(frozen=True, slots=True, init=False)
class Excerpt:
    """What of a file is meant.

    Args:
        start, end: seconds on the clip's clock, rounded to frames of 1/25 s; ``None``: from the file's start, to its
            end.
        sound: another file to take the sound from, at the same seconds of its own; ``None``: the file itself.
    """

    start: float | None
    end: float | None
    _sound: str | None  # a path takes three times the memory of its text

    def __init__(self, start: float | None = None, end: float | None = None, sound: Path | None = None) -> None:
        for name, value in (("start", start), ("end", end), ("_sound", None if sound is None else str(sound))):
            object.__setattr__(self, name, value)

    @property
    def sound(self) -> Path | None:
        """The other file with the sound."""
        return None if self._sound is None else Path(self._sound)

    @property
    def frames(self) -> slice:
        """The frames, 25 a second."""
        start, end = (None if time is None else round(time * FRAME_RATE) for time in (self.start, self.end))
        return slice(start, end if end is None else max(end, (start or 0) + 1))

    @property
    def samples(self) -> slice:
        """The samples of the sound that belong to :attr:`frames`."""
        start, end = (
            None if place is None else place * SAMPLES_PER_FRAME for place in (self.frames.start, self.frames.stop)
        )
        return slice(start, end)

    @property
    def is_part(self) -> bool:
        """Whether a stretch of the file is meant, not all of it."""
        return self.start is not None or self.end is not None


WHOLE = Excerpt()
"""All of a file, with its own sound."""


def length(audio: np.ndarray | None, mouth: np.ndarray | None) -> float:
    """Seconds of the longer of sound ``(samples,)`` and mouth ``(frames, …)``; None counts as 0."""
    return max(0.0 if audio is None else len(audio) / SAMPLE_RATE, 0.0 if mouth is None else len(mouth) / FRAME_RATE)
