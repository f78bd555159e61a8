"""The transcript of a clip, and its forms: JSON, subtitles, text to compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mome.rates import Rates, Task


@dataclass(frozen=True)
class Segment:
    """A part of a transcript: ``start`` and ``end`` in seconds from the start of the clip, and the text."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Tokens:
    """Number of tokens that the language model reads before it writes the transcript, by origin.

    ``prompt`` counts all text tokens: the prompt, and start and marker tokens if the model has them. ``fused`` counts
    tokens made of audio and video together.
    """

    audio: int
    video: int
    prompt: int
    fused: int = 0

    @property
    def total(self) -> int:
        """Number of all tokens read."""
        return self.audio + self.video + self.prompt + self.fused


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds spent reading the media, in the encoders, and in the language model."""

    media: float
    encode: float
    decode: float


@dataclass(frozen=True)
class Transcript:
    """What the language model wrote for one clip at one pair of rates, and what it cost.

    Attributes:
        file: the clip's name, as the user gave it.
        task: ``avsr``, ``asr`` or ``vsr``.
        rates: the rates used.
        text: the full text.
        segments: parts with their times, in order.
        tokens: number of tokens read.
        tflops: floating-point operations in units of 10^12; a multiply-add counts as two.
        seconds: processing time.
        warnings: one line each, for the user.
        encoder_tflops: those of ``tflops`` that the encoders take; not part of :meth:`to_json`.
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
    encoder_tflops: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The transcript as dictionaries, lists, strings and numbers; fused tokens only if there are any."""
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
    """Convert a text to lower case with single spaces and none at the ends, the form that published systems score.

    Punctuation stays: published references have none, and recognisers learn to write none.
    """
    return " ".join(text.lower().split())


def to_srt(segments: Iterable[Segment]) -> str:
    """Format segments as SubRip subtitles, without those that have no words."""
    cues = [
        f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{text}\n"
        for number, (segment, text) in enumerate(_spoken(segments), start=1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Iterable[Segment]) -> str:
    """Format segments as WebVTT subtitles, without those that have no words."""
    cues = [
        f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{_escape(text)}\n"
        for segment, text in _spoken(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _spoken(segments: Iterable[Segment]) -> Iterable[tuple[Segment, str]]:
    """Segments with words, each with its text on one line: an empty line would end a cue."""
    for segment in segments:
        if text := " ".join(segment.text.split()):
            yield segment, text


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    """Format a time as ``HH:MM:SS`` and milliseconds after ``point``; hours may exceed 99."""
    second, milliseconds = divmod(round(max(seconds, 0.0) * 1000), 1000)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
