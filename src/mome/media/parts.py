"""Where somebody speaks in a recording of any length: parts that a model can take at once.

A part is a :class:`~mome.clip.Clip` with the modalities that it has. Its place is found by the sound
(:mod:`mome.media.speech`). Where the sound cannot tell, because it is gone or as loud as speech throughout, and
wherever there is no sound, it is found by the mouth's movement (:mod:`mome.media.motion`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d, uniform_filter1d

from mome.clip import FRAME_RATE, SAMPLE_RATE, Clip, length
from mome.media.motion import cut_by_motion, mouth_motion, moving_seconds, speaking
from mome.media.speech import FRAME, FRAME_SECONDS, Cutter, Piece, SpeechDetector

LEAST_PART = 1.0
"""Seconds of the shortest part, where the recording has as much."""
LEAST_MOVED, ALONE_MOVED = 0.2, 1.0
"""Seconds that a mouth must move where the sound cannot tell: if speech is heard, and if it is not."""
UNHEARD = 0.3
"""Probability that nothing is said, by the sound, from which on speech is not heard."""
BLOCK = 30.0
"""Seconds of video that are looked at together where there is no sound."""
SILENT, QUIET = 1e-5, 1e-3
"""Root mean square of a sound that is gone, and of one in which noise does not matter; full scale is 1."""
NOISY = 14.0
"""Decibels between speech and noise below which the mouth tells better than the sound whether somebody speaks."""
_SHORT = 8  # frames, a quarter of a second
_AROUND = 63  # frames, 2 s


class Source(Protocol):
    """What parts are cut from: a long file or a clip."""

    @property
    def seconds(self) -> float:
        """Its length."""

    @property
    def has_sound(self) -> bool:
        """Whether it has sound."""

    @property
    def has_mouth(self) -> bool:
        """Whether it has video."""

    def sound(self) -> Iterator[np.ndarray]:
        """All sound from 0 on, (samples,) float32 at 16 kHz each."""

    def mouth(self, start: float, end: float) -> np.ndarray | None:
        """(frames, 96, 96) uint8, the mouth from ``start`` to ``end`` seconds; ``None`` where no face is seen."""

    def moving(self, longest: float) -> Iterator[tuple[Piece, np.ndarray]]:
        """The pieces of at most ``longest`` seconds in which the mouth moves, with the mouth."""


@dataclass(frozen=True)
class Whole:
    """A clip in memory as a :class:`Source`."""

    clip: Clip

    @property
    def seconds(self) -> float:
        """The clip's length."""
        return self.clip.seconds

    @property
    def has_sound(self) -> bool:
        """Whether it has sound."""
        return self.clip.audio is not None

    @property
    def has_mouth(self) -> bool:
        """Whether it has a mouth."""
        return self.clip.mouth is not None

    def sound(self) -> Iterator[np.ndarray]:
        """Its sound in blocks."""
        sound = np.empty(0, np.float32) if self.clip.audio is None else self.clip.audio
        for start in range(0, len(sound), round(BLOCK * SAMPLE_RATE)):
            yield sound[start : start + round(BLOCK * SAMPLE_RATE)]

    def mouth(self, start: float, end: float) -> np.ndarray | None:
        """A stretch of its mouth."""
        if self.clip.mouth is None:
            return None
        part = self.clip.mouth[round(start * FRAME_RATE) : round(end * FRAME_RATE)]
        return part if len(part) else None

    def moving(self, longest: float) -> Iterator[tuple[Piece, np.ndarray]]:
        """The stretches of its mouth that move."""
        if self.clip.mouth is not None:
            for piece in cut_by_motion(mouth_motion(self.clip.mouth), longest):
                yield piece, self.clip.mouth[round(piece.start * FRAME_RATE) : round(piece.end * FRAME_RATE)]


@dataclass(frozen=True)
class Part:
    """A part of a recording to be transcribed at once.

    Attributes:
        start: seconds from the start of the recording.
        clip: its sound and mouth.
        no_speech: probability that nothing is said, by the sound; ``None`` if the lips decided.
        still: whether a mouth is seen that does not move.
        continued: whether speech goes on at its end, where the next part ``repeats`` that many seconds of it.
    """

    start: float
    clip: Clip
    no_speech: float | None = None
    still: bool = False
    continued: bool = False
    repeats: float = 0.0

    @property
    def overlaps(self) -> bool:
        """Whether it has seconds in common with another part: their transcripts are merged by their words' times."""
        return self.continued or self.repeats > 0


def parts(source: Source, longest: float, path: Path | None = None) -> Iterator[Part]:
    """Cut a recording where nobody speaks.

    Args:
        source: the recording; it is read once, from start to end.
        longest: seconds of the longest part, at least 1.
        path: the recording's file, for messages.

    Raises:
        MomeError: it has sound, and the packages of the extra ``vad`` are not installed.
    """
    if source.has_sound:
        yield from _BySpeech(source, longest, path).parts()
    elif source.has_mouth:
        yield from _by_movement(source, longest, path)


def _by_movement(source: Source, longest: float, path: Path | None) -> Iterator[Part]:
    """Parts in which the mouth moves as if it spoke."""
    end = 0.0
    for piece, mouth in source.moving(longest):
        clip = Clip(None, mouth, length(None, mouth), path)
        yield Part(piece.start, clip, continued=piece.continued, repeats=max(end - piece.start, 0.0))
        end = piece.end


class _Mouth:
    """The mouth of a source, read forward, with what may still be needed."""

    def __init__(self, source: Source):
        self.source, self.begins, self.end = source, 0, 0  # in frames
        self.blocks: list[np.ndarray | None] = []
        self.starts: list[int] = []

    def between(self, start: float, end: float) -> np.ndarray | None:
        """(frames, 96, 96) uint8; ``None`` if it is not seen in all of it."""
        first, last = round(start * FRAME_RATE), round(end * FRAME_RATE)
        if first > self.end:
            self.end = first
        if last > self.end:
            block = self.source.mouth(self.end / FRAME_RATE, last / FRAME_RATE)
            self.blocks.append(block)
            self.starts.append(self.end)
            self.end = self.end + len(block) if block is not None else last
        found = []
        for at, block in zip(self.starts, self.blocks, strict=True):
            if block is None:
                continue
            found.append(block[max(first - at, 0) : max(last - at, 0)])
        whole = np.concatenate(found) if found else np.empty((0, 0, 0), np.uint8)
        return whole if len(whole) >= 0.8 * (last - first) and len(whole) else None

    def speaking(self, start: float, end: float) -> np.ndarray:
        """How likely it speaks in each frame of the speech detector; NaN where it is not seen."""
        mouth = self.between(start, end)
        frames = round(end / FRAME_SECONDS) - round(start / FRAME_SECONDS)
        found = np.full(frames, np.nan, np.float32)
        if mouth is not None:
            own = speaking(mouth)[:frames]
            found[: len(own)] = own
        return found

    def forget(self, before: float) -> None:
        """Drop blocks that end before a time."""
        frame = round(before * FRAME_RATE)
        while self.blocks and (self.starts[1] if len(self.starts) > 1 else self.end) <= frame:
            self.blocks.pop(0)
            self.starts.pop(0)


@dataclass
class Sound:
    """The sound of a stream that may still be needed."""

    blocks: list[np.ndarray] = field(default_factory=list)
    begins: int = 0
    """Sample at which the first block begins."""
    end: int = 0

    def append(self, block: np.ndarray) -> None:
        """Add the next samples."""
        self.blocks.append(block)
        self.end += len(block)

    def between(self, start: float, end: float) -> np.ndarray:
        """The samples between two times, as far as they are there."""
        first, last = (round(time * SAMPLE_RATE) - self.begins for time in (start, end))
        if len(self.blocks) > 1:
            self.blocks = [np.concatenate(self.blocks)]
        return self.blocks[0][max(first, 0) : max(last, 0)] if self.blocks else np.empty(0, np.float32)

    def forget(self, before: float) -> None:
        """Drop whole blocks that end before a time."""
        while self.blocks and self.begins + len(self.blocks[0]) <= round(before * SAMPLE_RATE):
            self.begins += len(self.blocks.pop(0))
        if self.blocks and (old := round(before * SAMPLE_RATE) - self.begins) > 0:
            self.blocks[0], self.begins = self.blocks[0][old:].copy(), self.begins + old


def deafness(wave: np.ndarray, frames: int) -> np.ndarray:
    """Where a sound (samples,) cannot tell whether somebody speaks: (frames,) bool, of the speech detector's frames.

    It is gone, or the quietest quarter of a second around is hardly quieter than the loudest: noise, babble or music
    are as loud as speech, which is quieter between its words and syllables.
    """
    padded = np.pad(wave, (0, max(frames * FRAME - len(wave), 0)))[: frames * FRAME]
    power = np.square(padded.reshape(frames, FRAME), dtype=np.float64).mean(1)
    power = uniform_filter1d(power, _SHORT, mode="nearest")
    floor = minimum_filter1d(power, _AROUND, mode="nearest")
    loud = np.percentile(power, 95)
    found: np.ndarray = (maximum_filter1d(power, _AROUND, mode="nearest") < SILENT**2) | (
        (floor > QUIET**2) & (floor > loud * 10 ** (-NOISY / 10))
    )
    return found


class _BySpeech:
    """Parts in which speech is heard or, where the sound cannot tell, seen."""

    def __init__(self, source: Source, longest: float, path: Path | None):
        self.source, self.sees, self.path = source, source.has_mouth, path
        self.detector, self.cutter = SpeechDetector(), Cutter(longest)
        self.sound, self.mouth = Sound(), _Mouth(source)
        self.heard = np.empty(0, np.float32)  # the last probabilities of speech, by the sound alone
        self.deaf = np.empty(0, bool)  # where the sound cannot tell
        self.frames = 0  # their end, counted from the start
        self.done = 0.0  # seconds up to which parts were given

    def parts(self) -> Iterator[Part]:
        for block in self.source.sound():
            self.sound.append(block)
            yield from self._pieces(self.cutter.of(self._judged(self.detector.of(block))))
            self._forget(min(self.cutter.open, self.cutter.now) - 1)
        yield from self._pieces(self.cutter.of(self._judged(self.detector.rest())))
        yield from self._pieces(self.cutter.rest(self.sound.end / SAMPLE_RATE))

    def _judged(self, heard: np.ndarray) -> np.ndarray:
        """How likely somebody speaks in the next frames, from how likely it is by the sound."""
        begins, self.frames = self.frames, self.frames + len(heard)
        self.heard = np.concatenate([self.heard, heard])
        if not self.sees or not len(heard):
            self.deaf = np.concatenate([self.deaf, np.zeros(len(heard), bool)])
            return heard
        start, end = begins * FRAME_SECONDS, self.frames * FRAME_SECONDS
        deaf = deafness(self.sound.between(start, end), len(heard))
        self.deaf = np.concatenate([self.deaf, deaf])
        if not deaf.any():
            return heard
        seen = self.mouth.speaking(start, end)
        judged: np.ndarray = np.where(deaf & ~np.isnan(seen), seen, heard)
        return judged

    def _pieces(self, pieces: list[Piece]) -> Iterator[Part]:
        for piece in pieces:
            # A word alone may be shorter than a token of a coarse rate.
            lacking = max(LEAST_PART - (piece.end - piece.start), 0.0) / 2
            start, end = max(piece.start - lacking, self.done), piece.end + lacking
            mouth = self.mouth.between(start, end) if self.sees else None
            sound = self.sound.between(start, end)
            wave = None if mouth is not None and np.square(sound).mean() < SILENT**2 else sound
            no_speech, deaf = self._no_speech(piece)
            moved = None if mouth is None else moving_seconds(mouth)
            if not (deaf and moved is not None and moved < (LEAST_MOVED if no_speech < UNHEARD else ALONE_MOVED)):
                clip = Clip(wave, mouth, length(wave, mouth), self.path)
                yield Part(start, clip, None if wave is None else no_speech, moved is not None and moved < LEAST_MOVED)
            self._forget(piece.end)

    def _forget(self, before: float) -> None:
        self.done = max(self.done, before)
        self.sound.forget(self.done)
        self.mouth.forget(self.done)
        kept = max(self.frames - int(self.done / FRAME_SECONDS), 0)
        self.heard, self.deaf = self.heard[max(len(self.heard) - kept, 0) :], self.deaf[max(len(self.deaf) - kept, 0) :]

    def _no_speech(self, piece: Piece) -> tuple[float, bool]:
        """One minus the highest mean probability over a quarter of a second; whether the sound could not tell it."""
        begins = self.frames - len(self.heard)
        first, last = (max(round(time / FRAME_SECONDS) - begins, 0) for time in (piece.start, piece.end))
        own, deaf = self.heard[first : max(last, first + 1)], self.deaf[first : max(last, first + 1)]
        width = min(_SHORT, len(own))
        if not width:
            return 1.0, True
        return float(1 - np.convolve(own, np.full(width, 1 / width), "valid").max()), bool(deaf.mean() > 0.5)
