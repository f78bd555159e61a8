"""What a recogniser returns for one clip at one pair of rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mome.rates import Rates, Task


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: ``start`` and ``end`` in seconds from the clip's beginning, and its text."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Tokens:
    """Language-model tokens fed for one clip before its transcript, by origin.

    ``prompt`` counts every text token: the instruction, and start and marker tokens if the model has them.
    ``fused`` are those made of audio and video together.
    """

    audio: int
    video: int
    prompt: int
    fused: int = 0

    @property
    def total(self) -> int:
        """All tokens fed."""
        return self.audio + self.video + self.prompt + self.fused


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds spent on reading the media, on the encoders, and on the language model."""

    media: float
    encode: float
    decode: float


@dataclass(frozen=True)
class Transcript:
    """The text of one clip and what it cost.

    Attributes:
        file: the clip's name, as the user gave it.
        task: ``avsr``, ``asr`` or ``vsr``.
        rates: the compression rates it was read at.
        text: the whole transcript.
        segments: its parts with their times, in order.
        tokens: language-model tokens fed.
        tflops: floating-point operations in units of 10^12, a multiply-add counted as two.
        seconds: processing time.
        warnings: one line each, for the user.
    """

    file: str
    task: Task
    rates: Rates
    text: str
    segments: tuple[Segment, ...]
    tokens: Tokens
    tflops: float
    seconds: Seconds
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The transcript as plain dictionaries, lists, strings and numbers; fused tokens only where there are some."""
        tokens, seconds = self.tokens, self.seconds
        return {
            "file": self.file,
            "task": self.task,
            "rates": str(self.rates),
            "text": self.text,
            "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in self.segments],
            "tokens": {
                "audio": tokens.audio,
                "video": tokens.video,
                **({"fused": tokens.fused} if tokens.fused else {}),
                "prompt": tokens.prompt,
                "total": tokens.total,
            },
            "tflops": self.tflops,
            "seconds": {"media": seconds.media, "encode": seconds.encode, "decode": seconds.decode},
            "warnings": list(self.warnings),
        }
