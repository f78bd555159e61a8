"""Subtitle files from timed segments."""

from __future__ import annotations

from collections.abc import Iterable

from mome.text.transcript import Segment


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
    whole, milliseconds = divmod(round(max(seconds, 0.0) * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
