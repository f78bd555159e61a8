"""The transcript of a clip, and its forms: JSON, text to compare; subtitles are in :mod:`mome.text.subtitles`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mome.rates import Rates, Task


@dataclass(frozen=True)
class Word:
    """A word of a segment: ``start`` and ``end`` in seconds from the start of the clip, and how probable it is.

    ``probability`` is the geometric mean of the probabilities of the word's tokens, each given what comes before.
    """

    start: float
    end: float
    word: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """The word as strings and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Segment:
    """A part of a transcript.

    Attributes:
        start, end: seconds from the start of the clip.
        text: what is said.
        words: its words in order; none if they were not asked for.
        avg_logprob: mean natural logarithm of the probabilities of the text's tokens, the end token included;
            ``None`` if words were not asked for.
        no_speech: probability that nothing is said; ``None`` if it was not estimated.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    avg_logprob: float | None = None
    no_speech: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The segment as dictionaries, lists, strings and numbers."""
        return {**asdict(self), "words": [word.to_dict() for word in self.words]}


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

    def to_dict(self) -> dict[str, int]:
        """The numbers by their names, and the total; fused tokens only if there are any."""
        fused = {"fused": self.fused} if self.fused else {}
        return {"audio": self.audio, "video": self.video, **fused, "prompt": self.prompt, "total": self.total}


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds spent reading the media, in the encoders, and in the language model."""

    media: float
    encode: float
    decode: float

    def to_dict(self) -> dict[str, float]:
        """The seconds by their names."""
        return asdict(self)


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
        face: number of the face whose lips were read, from 1 on the left, if each has a transcript of its own.
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
    face: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The transcript as dictionaries, lists, strings and numbers; fused tokens only if there are any."""
        return {
            "file": self.file,
            **({} if self.face is None else {"face": self.face}),
            "task": self.task,
            "rates": str(self.rates),
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "tokens": self.tokens.to_dict(),
            "tflops": self.tflops,
            "seconds": self.seconds.to_dict(),
            "warnings": list(self.warnings),
        }

    to_json = to_dict

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Transcript:
        """The transcript that :meth:`to_dict` gave; raises ``KeyError``, ``TypeError`` or ``ValueError`` for others."""
        tokens = {name: number for name, number in saved["tokens"].items() if name != "total"}
        segments = (
            Segment(**{**segment, "words": tuple(Word(**word) for word in segment["words"])})
            for segment in saved["segments"]
        )
        own: dict[str, Any] = {name: saved[name] for name in ("file", "task", "text", "tflops")}
        own |= {"rates": Rates.parse(saved["rates"]), "segments": tuple(segments), "face": saved.get("face")}
        own |= {"tokens": Tokens(**tokens), "seconds": Seconds(**saved["seconds"])}
        return cls(**own, warnings=tuple(saved["warnings"]))


def normalize(text: str) -> str:
    """Convert a text to lower case with single spaces and none at the ends, the form that published systems score.

    Punctuation stays: published references have none, and recognisers learn to write none.
    """
    return " ".join(text.lower().split())
