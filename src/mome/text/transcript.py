"""What a recogniser returns for one clip at one pair of rates, and its forms: JSON, subtitles, words to compare."""

from __future__ import annotations

from collections.abc import Iterable
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


def normalize(text: str) -> str:
    """Lower case with single spaces and none at the ends, as the published systems are scored.

    Punctuation stays: the published references have none, and the recognisers learn to write none.
    """
    return " ".join(text.lower().split())


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip text; segments without words are left out."""
    cues = [
        f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{text}\n"
        for number, (segment, text) in enumerate(_spoken(segments), start=1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT text; segments without words are left out."""
    cues = [
        f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{_escape(text)}\n"
        for segment, text in _spoken(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _spoken(segments: Iterable[Segment]) -> Iterable[tuple[Segment, str]]:
    """Segments with their text on one line: an empty line would end the cue."""
    for segment in segments:
        if text := " ".join(segment.text.split()):
            yield segment, text


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    """``HH:MM:SS`` and milliseconds; hours go beyond 99 where needed."""
    second, milliseconds = divmod(round(max(seconds, 0.0) * 1000), 1000)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
