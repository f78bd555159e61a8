"""The streams of a file that are read: which ones, and what the file says about them."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from mome.errors import MomeError
from mome.media.clock import Clock
from mome.media.limits import picture_excess, sound_excess

# To FFmpeg these are video, and not to us.
_PICTURES = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails

# The sound of a RIFF file begins within so many bytes. Sizes from half of the greatest on stand for an unknown one.
_HEAD, _UNKNOWN = 65_536, 0x7FFF0000


@dataclass(frozen=True)
class Track:
    """One stream of sound or video."""

    index: int
    """Among all streams of the file."""
    clock: Clock
    start: float = 0.0
    """Seconds on the file's clock at which it says that it starts."""
    declared: float | None = None
    """Seconds that it says it lasts, in files of a kind that knows; of others FFmpeg guesses from the bit rate."""
    excess: str | None = None
    """What is beyond the limits of :mod:`mome.media.limits`, as the end of a line."""
    choice: str | None = None
    """That it was chosen among several, and which, as the end of a line."""
    aspect: Fraction | None = None
    """Width of a pixel divided by its height; None: square, or sound."""


def sound_tracks(path: Path, container: InputContainer, wanted: int | None) -> list[Track]:
    """The tracks of sound, best first: as FFmpeg chooses, by default mark, then by channels.

    Args:
        path: the file, for the message.
        container: it, opened.
        wanted: the one track to use, counted from 0; None: any.

    Raises:
        MomeError: there is no track of that number.
    """
    streams = _known(container.streams.audio)
    if wanted is None:
        rank = [(_default(stream), stream.codec_context.layout.nb_channels) for stream in streams]
        numbers = sorted(range(len(streams)), key=lambda number: rank[number], reverse=True)
    elif type(wanted) is not int:
        raise MomeError(f"audio_track={wanted!r} is not possible: give the number of a sound track, counted from 0")
    elif 0 <= wanted < len(streams):
        numbers = [wanted]
    else:
        has = f"{len(streams)} sound tracks, numbered from 0" if streams else "no sound"
        raise MomeError(f"{path} has no sound track {wanted}: it has {has}")
    several = wanted is None and len(streams) > 1
    names = ", ".join(_name(number, stream) for number, stream in enumerate(streams))
    hint = f"has {len(streams)} sound tracks ({names}); using {{}}, --audio-track chooses another"
    return [
        _track(container, streams[number], sound_excess(streams[number]), hint.format(number) if several else None)
        for number in numbers
    ]


def video_tracks(container: InputContainer) -> list[Track]:
    """The tracks of video without cover art, best first: by default mark, then by size."""
    streams = [stream for stream in _known(container.streams.video) if not stream.disposition & _PICTURES]
    order = sorted(streams, key=lambda stream: (_default(stream), stream.width * stream.height), reverse=True)
    return [
        _track(
            container,
            stream,
            picture_excess(stream.width, stream.height),
            f"has {len(streams)} video tracks; using the one of {stream.width}x{stream.height} pixels"
            if len(streams) > 1
            else None,
            stream.sample_aspect_ratio,
        )
        for stream in order
    ]


def _track(
    container: InputContainer,
    stream: Any,
    excess: str | None,
    choice: str | None,
    aspect: Fraction | None = None,
) -> Track:
    start = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
    return Track(stream.index, Clock(), start, _declared(container, stream, start), excess, choice, aspect)


def _known(streams: Any) -> list[Any]:
    """Those of a codec that FFmpeg has."""
    return [stream for stream in streams if stream.codec_context is not None]


def _default(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.default)


def _name(number: int, stream: Any) -> str:
    words = (stream.metadata.get("language"), stream.metadata.get("title"))
    said = " ".join(word for word in words if word and word != "und")
    return f"{number}: {said}" if said else str(number)


def _declared(container: InputContainer, stream: Any, start: float) -> float | None:
    kinds = container.format.name.split(",")
    if "wav" in kinds and stream.codec_context.name.startswith("pcm_"):  # others have a bit rate that varies
        return _declared_wave(container, stream)
    if "mp4" in kinds:
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    # Matroska tells when a stream ends on the file's clock, in a tag that may be left from another file.
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip())
    if "matroska" not in kinds or tag is None or not container.duration:
        return None
    end = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return max(min(end, container.duration / av.time_base) - max(start, 0.0), 0.0)


def _declared_wave(container: InputContainer, stream: Any) -> float | None:
    """Seconds by the size in the head of a RIFF file, which a program that writes to a pipe cannot know."""
    with Path(container.name.removeprefix("file:")).open("rb") as file:
        head = file.read(_HEAD)
    place = 12
    while head.startswith(b"RIFF") and place + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, place)
        if name == b"data":
            known = 0 < size < _UNKNOWN and stream.codec_context.bit_rate
            return 8 * size / stream.codec_context.bit_rate if known else None
        place += 8 + size + size % 2
    return None


def declared_whole(container: InputContainer, tracks: list[Track]) -> float | None:
    """Seconds that the tracks last together by what the file says as a whole; None where that is not known."""
    kinds = container.format.name.split(",")
    if not container.duration or len(container.streams) != len(tracks) or {"mp4", "matroska"}.isdisjoint(kinds):
        return None
    return container.duration / av.time_base - max(0.0, min(track.start for track in tracks))
