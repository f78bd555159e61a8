"""Where speech is in a sound, and where to cut a long one into pieces that a model can hear at once.

The probability of speech is Silero VAD's (https://github.com/snakers4/silero-vad, MIT, version 6): its network for
16 kHz reads frames of 512 samples one after the other, each with the last 64 samples before it. Everything after that
is arithmetic on whole frames, one at a time, so that a live sound is cut exactly as a file is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mome.clip import SAMPLE_RATE
from mome.errors import MomeError

FRAME = 512
"""Samples of a frame, which has one probability."""
FRAME_SECONDS = FRAME / SAMPLE_RATE

_CONTEXT, _STATE = 64, (1, 1, 128)
# Frames that the network reads in one call: 16 s.
_BLOCK = 512
_FILE = "silero_vad/data/silero_vad_16k_sequence.onnx"
# A cut within speech is made where the mean of this many probabilities is least: a pause, not a gap between letters.
_SMOOTH = 9


class SpeechDetector:
    """Probabilities of speech for a sound that arrives in pieces; they do not depend on how it is divided.

    Raises :class:`MomeError` if the packages of the extra ``vad`` are not installed. Each sound needs a detector of its
    own; they share one network and may run in different threads.
    """

    def __init__(self) -> None:
        self._session = _session()
        self._sound: np.ndarray = np.zeros(_CONTEXT, np.float32)  # what the next frame reads, as far as it has arrived
        self._hidden = self._cell = np.zeros(_STATE, np.float32)

    def of(self, wave: np.ndarray) -> np.ndarray:
        """The next samples (samples,) float32, 16 kHz; returns (frames,) float32 for the frames now complete."""
        found = [np.empty(0, np.float32)]
        for start in range(0, len(wave), _BLOCK * FRAME):
            sound = np.concatenate([self._sound, wave[start : start + _BLOCK * FRAME]])
            frames = (len(sound) - _CONTEXT) // FRAME
            self._sound = sound[frames * FRAME :]
            if frames:
                windows = np.ascontiguousarray(sliding_window_view(sound, _CONTEXT + FRAME)[::FRAME], np.float32)
                inputs = {"input": windows, "h": self._hidden, "c": self._cell}
                probabilities, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
                found.append(probabilities)
        return np.concatenate(found)

    def rest(self) -> np.ndarray:
        """The end of the sound: (1,) for a last frame that is not full, read with silence after it, else (0,)."""
        missing = -(len(self._sound) - _CONTEXT) % FRAME
        return self.of(np.zeros(missing, np.float32))


def speech_probabilities(wave: np.ndarray) -> np.ndarray:
    """Probability of speech in each frame of 32 ms: (samples,) at 16 kHz to (frames,) float32, the last frame padded.

    Raises:
        MomeError: the packages of the extra ``vad`` are not installed.
    """
    detector = SpeechDetector()
    return np.concatenate([detector.of(wave), detector.rest()])


@cache
def _session() -> Any:
    """The network, one thread a call; safe to share between threads, as calls keep their state outside."""
    try:
        import onnxruntime

        # Importing the package would set PyTorch to one thread: only its file is read.
        path = Path(str(distribution("silero-vad").locate_file(_FILE)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except (ImportError, PackageNotFoundError, OSError):
        raise MomeError(
            "finding speech needs the packages onnxruntime and silero-vad (6.2.3 or later): pip install 'mome[vad]'"
        ) from None


@dataclass(frozen=True)
class Piece:
    """A part of the sound to be heard at once, in seconds.

    If it is ``continued``, it ends within speech, and the next one repeats its end.
    """

    start: float
    end: float
    continued: bool = False


def speech_spans(
    probabilities: Iterable[float],
    *,
    enter: float = 0.5,
    leave: float = 0.35,
    least: float = 0.1,
    pause: float = 0.1,
    seconds: float = inf,
) -> list[tuple[float, float]]:
    """Stretches of speech as (start, end) in seconds, without padding.

    One begins with a frame of at least ``enter`` and ends where the probability stays below ``leave`` for ``pause``
    seconds; those shorter than ``least`` seconds are left out. ``seconds``: length of the sound, no end is later.
    """
    hysteresis = _Hysteresis(enter, leave, least, pause)
    spans = [hysteresis.add(probability) for probability in probabilities] + [hysteresis.close()]
    return [(span[0] * FRAME_SECONDS, min(span[1] * FRAME_SECONDS, seconds)) for span in spans if span]


def cut(probabilities: Iterable[float], longest: float, *, seconds: float = inf, **options: Any) -> list[Piece]:
    """Pieces of a whole sound: :class:`Cutter` at once, with its options; ``seconds`` is the length of the sound."""
    cutter = Cutter(longest, **options)
    return [*cutter.of(probabilities), *cutter.rest(seconds)]


class Cutter:
    """Cuts a sound into pieces by its probabilities of speech, as they arrive.

    Pieces are ordered and disjoint, but for ``overlap``, last at most ``longest`` seconds and hold all speech. A piece

    - ends at a pause of ``apart`` seconds: in read English, a phrase or a sentence is over. Shorter pauses stay inside,
      as a language model needs the words around;
    - that grows beyond ``target`` seconds (by default ``longest``) ends at the longest pause in the second half of
      that, or at the last pause before;
    - that is speech without a pause for ``longest`` seconds ends in the second half of that, where speech is least
      probable, and has ``overlap`` seconds around that place in common with the next one;
    - begins ``padding`` seconds before its speech and ends half as much after it, as far as the pieces beside it,
      ``longest`` and the sound leave room: beginnings are found late, ends are not (docs/media.md).

    Args:
        longest: seconds, at least 1.
        target, apart, padding, overlap: seconds; padding and overlap are a quarter of ``longest`` at most.
        enter, leave, least, pause: see :func:`speech_spans`.
    """

    def __init__(
        self,
        longest: float,
        *,
        target: float | None = None,
        apart: float = 0.5,
        padding: float = 0.4,
        overlap: float = 0.0,
        enter: float = 0.5,
        leave: float = 0.35,
        least: float = 0.1,
        pause: float = 0.1,
    ):
        if not longest >= 1:
            raise ValueError(f"a piece lasts at most {longest} seconds: at least 1 is needed")
        self._longest = int(min(longest, 1e6) / FRAME_SECONDS)
        self._target = self._longest if target is None else min(_frames(target), self._longest)
        self._apart = _frames(apart)
        # A quarter at most, so that a cut in the second half is one within speech.
        self._before, self._after = min(_frames(padding), self._longest // 4), _frames(padding / 2)
        self._shared = min(round(overlap / 2 / FRAME_SECONDS), self._longest // 8)  # frames before and after a cut
        self._hysteresis = _Hysteresis(enter, leave, least, pause)
        self._done = 0  # the frame where the next piece may begin
        self._spans: list[tuple[int, int]] = []  # speech that is over, of the piece that grows
        reach = self._hysteresis.least + self._hysteresis.pause + _SMOOTH
        self._recent: deque[float] = deque(maxlen=self._longest + reach)

    @property
    def now(self) -> float:
        """Seconds of the sound that were seen."""
        return self._hysteresis.now * FRAME_SECONDS

    @property
    def open(self) -> float:
        """Seconds at which the next piece begins, as far as it is known; infinite while nobody speaks."""
        starts = [span[0] for span in self._spans]
        if self._hysteresis.start is not None:
            starts.append(self._hysteresis.start)
        return max(self._done, starts[0] - self._before) * FRAME_SECONDS if starts else inf

    def of(self, probabilities: Iterable[float]) -> list[Piece]:
        """Take the probabilities of the next frames; returns the pieces that are now complete."""
        return [piece for probability in probabilities for piece in self._add(probability)]

    def rest(self, seconds: float = inf) -> list[Piece]:
        """The end of the sound, ``seconds`` after its start: returns the remaining pieces."""
        self._take(self._hysteresis.close())
        pieces = [*self._too_long()]
        if self._spans:
            pieces.append(self._end(self._spans, self._hysteresis.now))
        return [replace(piece, end=min(piece.end, seconds)) for piece in pieces]

    def _add(self, probability: float) -> Iterator[Piece]:
        self._recent.append(probability)
        self._take(self._hysteresis.add(probability))
        yield from self._too_long()
        if self._spans and self._hysteresis.start is None:
            silent = self._hysteresis.now - self._spans[-1][1]
            if silent >= self._apart:
                yield self._end(self._spans, self._hysteresis.now)

    def _take(self, span: tuple[int, int] | None) -> None:
        if span is not None:
            self._spans.append((max(span[0], self._done), span[1]))

    def _too_long(self) -> Iterator[Piece]:
        """End pieces until what is left is not too long."""
        while True:
            spans = [*self._spans]
            if (begun := self._hysteresis.begun) is not None:
                spans.append((max(begun[0], self._done), begun[1]))
            if not spans:
                return
            first = self._first(spans)
            length = spans[-1][1] - first
            if len(spans) > 1 and length > self._target:
                pauses = [(after[0] - before[1], before[1]) for before, after in pairwise(spans)]
                late = [pause for pause in pauses if pause[1] >= first + self._target // 2] or pauses[-1:]
                pause, at = max(late)
                yield self._end(spans[: pauses.index((pause, at)) + 1], at + pause // 2)
            elif length > self._longest:
                at = self._quietest(first + self._longest // 2, first + self._longest - self._shared)
                self._done = at - self._shared
                yield replace(_piece(first, at + self._shared), continued=self._shared > 0)
            else:
                return

    def _first(self, spans: list[tuple[int, int]]) -> int:
        return max(self._done, spans[0][0] - self._before)

    def _end(self, spans: list[tuple[int, int]], room: int) -> Piece:
        """The piece of ``spans``, the first ones of those kept; its padding ends before the frame ``room``."""
        first, last = self._first(spans), spans[-1][1]
        self._done = max(last, min(last + self._after, room, first + self._longest))
        self._spans = self._spans[len(spans) :]
        return _piece(first, self._done)

    def _quietest(self, start: int, end: int) -> int:
        """The frame from ``start`` to before ``end`` around which speech is least probable, the last of equals."""
        recent = np.pad(np.array(self._recent, np.float64), _SMOOTH // 2, mode="edge")
        means = np.convolve(recent, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
        offset = self._hysteresis.now - len(means)
        window = means[start - offset : end - offset]
        return end - 1 - int(np.argmin(window[::-1]))


class _Hysteresis:
    """Stretches of speech in whole frames, see :func:`speech_spans`.

    Attributes:
        start: the frame where the present stretch began, None in a pause.
        now: frames seen.
    """

    def __init__(self, enter: float, leave: float, least: float, pause: float):
        self.enter, self.leave, self.least, self.pause = enter, leave, _frames(least), _frames(pause)
        self.start: int | None = None
        self.end = self.now = 0

    def add(self, probability: float) -> tuple[int, int] | None:
        """The next frame; returns the stretch (start, end) that is over with it."""
        self.now += 1
        if self.start is None and probability >= self.enter:
            self.start = self.now - 1
        if self.start is not None and probability >= self.leave:
            self.end = self.now
        return self.close() if self.now - self.end >= self.pause else None

    @property
    def begun(self) -> tuple[int, int] | None:
        """The present stretch as far as it is known, unless it is too short yet."""
        return None if self.start is None or self.end - self.start < self.least else (self.start, self.end)

    def close(self) -> tuple[int, int] | None:
        """End the present stretch, if there is one."""
        begun, self.start = self.begun, None
        return begun


def _frames(seconds: float) -> int:
    """Whole frames, at least one."""
    return max(1, round(seconds / FRAME_SECONDS))


def _piece(start: int, end: int) -> Piece:
    return Piece(start * FRAME_SECONDS, end * FRAME_SECONDS)
