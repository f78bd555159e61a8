"""Speech as it is said: partial text while somebody speaks, final text at each pause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from mome.clip import SAMPLE_RATE, Clip, length
from mome.decoding.recordings import Recordings, placed
from mome.decoding.transcriber import Transcriber
from mome.errors import MomeError
from mome.media.parts import Part, Sound
from mome.media.speech import Cutter, Piece, SpeechDetector
from mome.rates import Rates
from mome.text.transcript import Segment


@dataclass(frozen=True)
class Heard:
    """What was heard so far of a segment; if it is not ``final``, a later one replaces it."""

    segment: Segment
    final: bool

    def to_dict(self) -> dict[str, Any]:
        """Its times, its text and whether it is final."""
        return {"start": self.segment.start, "end": self.segment.end, "text": self.segment.text, "final": self.final}


class Listener:
    """Transcribes sound that arrives in pieces, such as a microphone's.

    A segment is final half a second after its last word, plus the time that the model takes; until then its text is
    written anew every ``every`` seconds of sound. Pieces are cut as those of a file are.

    Args:
        transcriber: a model that can listen.
        rates: such as ``"4,-"``; the finest by default.
        every: seconds of sound between partial texts; infinite for final ones alone.
        max_segment, generation: as in :meth:`~mome.decoding.Transcriber.transcribe`.

    Raises:
        MomeError: the model or the rates do not listen, an option is not possible, or the packages of the extra
            ``vad`` are not installed.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        rates: str | Rates | None = None,
        *,
        every: float = 1.0,
        max_segment: float | None = None,
        **generation: Any,
    ):
        if not every > 0:
            raise MomeError(f"every={every} is not possible: give seconds above 0")
        listening = [rate for rate in transcriber.model.rate_set.rates() if rate.task == "asr"]
        chosen = next(iter(listening), None) if rates is None else Rates.parse(rates)
        if chosen is None or chosen.task != "asr":
            raise MomeError("listening needs a model and rates of asr, such as 4,-: give others")
        transcriber.model.rate_set.check(chosen)
        self.transcriber, self.rates, self.every, self.generation = transcriber, chosen, every, generation
        self._detector = SpeechDetector()
        self._cutter = Cutter(Recordings(transcriber, [chosen], generation, None, max_segment, True, None).longest)
        self._sound, self._told = Sound(), 0.0

    def feed(self, wave: np.ndarray, partial: bool = True) -> Iterator[Heard]:
        """Take the next samples.

        Args:
            wave: (samples,) float32, 16 kHz.
            partial: whether partial text may be given; not if sound is waiting already.
        """
        self._sound.append(np.asarray(wave, np.float32))
        for piece in self._cutter.of(self._detector.of(wave)):
            yield from self._final(piece)
        begun, now = self._cutter.open, self._cutter.now
        if not isfinite(begun):
            self._sound.forget(now - 1)
            self._told = now
        elif partial and now - max(self._told, begun) >= self.every:
            self._told = now
            for segment in self._segments(begun, now):
                yield Heard(segment, False)

    def finish(self) -> Iterator[Heard]:
        """The end of the sound: what is still to be said about it."""
        pieces = [*self._cutter.of(self._detector.rest()), *self._cutter.rest(self._sound.end / SAMPLE_RATE)]
        for piece in pieces:
            yield from self._final(piece)

    def _final(self, piece: Piece) -> Iterator[Heard]:
        for segment in self._segments(piece.start, piece.end):
            yield Heard(segment, True)
        self._sound.forget(piece.end)
        self._told = piece.end

    def _segments(self, start: float, end: float) -> tuple[Segment, ...]:
        wave = self._sound.between(start, end)
        part = Part(start, Clip(wave, None, length(wave, None)))
        (transcript,) = self.transcriber.transcribe_rates(part.clip, [self.rates], **self.generation)
        return placed(transcript, part).segments
