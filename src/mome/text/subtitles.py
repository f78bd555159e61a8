"""Subtitles of a transcript: cues that can be read, as SubRip, WebVTT or a table.

Limits follow the usual guidelines for subtitles: two lines of 42 characters, 7 seconds, and time to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from mome.text.transcript import Segment

LINE, LINES = 42, 2
"""Most characters of a line, and lines of a cue."""
LONGEST, SHORTEST = 7.0, 1.0
"""Seconds that a cue is shown: at most, and at least where nothing else is said."""
READING_SPEED = 17.0
"""Characters a second that everybody can read."""
PAUSE = 1.0
"""Seconds without a word at which a cue ends in any case; shorter pauses are places to end one."""

_MARKUP = re.compile(r"(?<=[<{])(?=\S)|(?<=--)(?=>)")
_WORD_JOINER = "\u2060"  # has no width, and keeps players from reading <b>, {\\an8} or --> as SubRip's own marks


@dataclass(frozen=True)
class Cue:
    """What is shown at once: ``start`` and ``end`` in seconds, and one or two lines."""

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Piece:
    """A word, or a part of one that is too long for a line."""

    start: float
    end: float
    text: str


def cues(segments: Iterable[Segment]) -> list[Cue]:
    """Break segments into cues, in order and without overlap, within the limits of this file.

    A cue never goes on from one segment to the next, ends at pauses, and is about as long as its neighbours. It stays
    until it is read if the pause after it allows that. A segment without words gives each of its characters the same
    time.
    """
    found: list[Cue] = []
    until: list[float] = []  # for each cue, how long it can stay
    now = 0.0
    for segment in segments:
        pieces = _pieces(segment, now)
        for group in _groups(pieces):
            end = max(piece.end for piece in group)
            found.append(Cue(group[0].start, min(end, group[0].start + LONGEST), _lines([p.text for p in group])))
            until.append(max(segment.end, end))
        if pieces:
            now = pieces[-1].start
    until = [after.start for after in found[1:]] + until[-1:]
    return [
        replace(cue, end=min(max(cue.end, cue.start + _reading_time(cue)), latest))
        for cue, latest in zip(found, until, strict=True)
    ]


def to_srt(segments: Iterable[Segment]) -> str:
    """Format segments as SubRip subtitles; without a word there is no cue."""
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_MARKUP.sub(_WORD_JOINER, _joined(cue))}\n"
        for number, cue in enumerate(cues(segments), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(segments: Iterable[Segment]) -> str:
    """Format segments as WebVTT subtitles; without a word there is no cue."""
    blocks = [f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escape(_joined(cue))}\n" for cue in cues(segments)]
    return "\n".join(["WEBVTT\n", *blocks])


def to_tsv(segments: Iterable[Segment]) -> str:
    """Format the cues as a table with a header: start and end in milliseconds, and the text on one line."""
    rows = [f"{_milliseconds(cue.start)}\t{_milliseconds(cue.end)}\t{_joined(cue, ' ')}" for cue in cues(segments)]
    return "\n".join(["start\tend\ttext", *rows]) + "\n"


def _pieces(segment: Segment, now: float) -> list[_Piece]:
    """The segment's words on lines of their own, none before ``now`` or before an earlier one."""
    words = [_Piece(word.start, word.end, word.word) for word in segment.words]
    found = []
    for word in words or [_Piece(segment.start, segment.end, segment.text)]:
        parts = [part[i : i + LINE] for part in word.text.split() for i in range(0, len(part), LINE)]
        length, done = sum(map(len, parts)), 0
        for part in parts:
            start = word.start + (word.end - word.start) * done / length
            done += len(part)
            now = max(now, start)
            found.append(_Piece(now, max(now, word.start + (word.end - word.start) * done / length), part))
    return found


def _groups(pieces: Sequence[_Piece]) -> list[Sequence[_Piece]]:
    """The words of each cue: as few cues as can be, of like length, broken at pauses."""
    best = [(0.0, 0)]  # of the first n pieces: the least cost, and where their last cue starts
    for end in range(1, len(pieces) + 1):
        choices, characters, latest = [], -1, 0.0
        for start in range(end - 1, -1, -1):
            first = pieces[start]
            pause = max(first.start - pieces[start - 1].end, 0.0) if start else 0.0
            characters, latest = characters + 1 + len(first.text), max(latest, first.end)
            if end - start > 1 and (latest - first.start > LONGEST or not _fits(pieces[start:end], characters)):
                break
            cost = 1.0 + (characters / (LINES * LINE)) ** 2 - min(pause / PAUSE, 1.0) / 2
            choices.append((best[start][0] + cost, start))
            if pause >= PAUSE:
                break
        best.append(min(choices))
    groups, end = [], len(pieces)
    while end:
        start = best[end][1]
        groups.append(pieces[start:end])
        end = start
    return groups[::-1]


def _fits(group: Sequence[_Piece], characters: int) -> bool:
    """Whether words fit the lines of a cue: what the first line cannot take must fit the second."""
    if characters <= LINE:
        return True
    first = max(length for length in accumulate(len(piece.text) + 1 for piece in group) if length <= LINE + 1)
    return characters - first <= LINE


def _lines(words: Sequence[str]) -> tuple[str, ...]:
    """One line if it is short enough, else two that are as even as can be."""
    if len(text := " ".join(words)) <= LINE or len(words) == 1:
        return (text,)
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return min(halves, key=lambda half: max(map(len, half)))


def _reading_time(cue: Cue) -> float:
    return min(max(SHORTEST, len(_joined(cue)) / READING_SPEED), LONGEST)


def _joined(cue: Cue, between: str = "\n") -> str:
    return between.join(cue.lines)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _milliseconds(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)


def _time(seconds: float, point: str) -> str:
    """Format a time as ``HH:MM:SS`` and milliseconds after ``point``; hours may exceed 99."""
    second, milliseconds = divmod(_milliseconds(seconds), 1000)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
