"""Transcripts in the forms of the OpenAI transcription API."""

from __future__ import annotations

import json
import zlib
from typing import Any

from mome.serving.line import Job
from mome.serving.request import Options
from mome.text.subtitles import to_srt, to_vtt
from mome.text.transcript import Segment, Transcript

MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
LANGUAGE = "unknown"
"""Models do not tell which language is spoken."""


def text(transcript: Transcript, options: Options) -> str:
    """The reply as text, for the formats of :data:`MEDIA_TYPES`."""
    if options.format == "text":
        return transcript.text + "\n"
    return {"srt": to_srt, "vtt": to_vtt}[options.format](transcript.segments)


def document(job: Job, transcript: Transcript, milliseconds: dict[str, float], model: str) -> dict[str, Any]:
    """The reply as JSON, for the formats ``json`` and ``verbose_json``.

    Args:
        job: the recording, which is complete.
        transcript: its transcript.
        milliseconds: what took how long.
        model: the model's name.
    """
    assert job.end is not None
    options, seconds = job.options, round(job.end.seconds, 3)
    reply: dict[str, Any] = {"text": transcript.text, "usage": {"type": "duration", "seconds": seconds}}
    if options.format == "verbose_json":
        reply |= {"task": "transcribe", "language": LANGUAGE, "duration": seconds}
        if "segment" in options.granularities:
            reply["segments"] = [_segment(number, each) for number, each in enumerate(transcript.segments)]
        if "word" in options.granularities:
            reply["words"] = [word.to_dict() for segment in transcript.segments for word in segment.words]
    return {**reply, "mome": _facts(transcript, options, milliseconds, model)}


def _facts(transcript: Transcript, options: Options, milliseconds: dict[str, float], model: str) -> dict[str, Any]:
    """What other servers do not say: rates, cost and time."""
    warnings = list(transcript.warnings)
    if options.unused:
        warnings.append(f"this model makes no use of {', '.join(options.unused)}")
    return {
        "model": model,
        "task": transcript.task,
        "rates": str(transcript.rates),
        "tokens": transcript.tokens.to_dict(),
        "gflops": round(1000 * transcript.tflops, 6),
        "milliseconds": milliseconds,
        "unused": list(options.unused),
        "warnings": warnings,
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    written = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment.avg_logprob if segment.avg_logprob is not None else 0.0,
        "compression_ratio": round(len(written) / len(zlib.compress(written)), 3),
        "no_speech_prob": segment.no_speech if segment.no_speech is not None else 0.0,
    }


def event(kind: str, **fields: Any) -> bytes:
    """A server-sent event with data of a type."""
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"
