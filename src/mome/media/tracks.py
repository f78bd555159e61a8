"""The tracks of a file to read, and what the file declares about them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from mome.errors import MomeError
from mome.media.clock import Clock
from mome.media.limits import picture_excess, sound_excess

# FFmpeg counts these as video streams.
_PICTURES = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails

# Bytes within which the sound of a RIFF file begins, and the least of the sizes that stand for an unknown one.
_HEAD, _UNKNOWN = 65_536, 0x7FFF0000

_S = TypeVar("_S", AudioStream, VideoStream)


@dataclass(frozen=True)
class Track:
    """One stream of sound or video."""

    index: int
    """Index in the list of all streams of the file."""
    clock: Clock
    start: float = 0.0
    """Seconds on the file's clock at which it starts."""
    declared_end: float | None = None
    """Seconds on the file's clock at which it should end; None in formats that do not say: FFmpeg guesses."""
    excess: str | None = None
    """Which limit of :mod:`mome.media.limits` it exceeds, as the end of an error message."""
    choice: str | None = None
    """Which of several tracks it is, as the end of a warning."""
    aspect: Fraction | None = None
    """Width of a pixel divided by its height; None for square pixels, and for sound."""

    @property
    def declared(self) -> float | None:
        """Declared length in seconds."""
        return None if self.declared_end is None else max(self.declared_end - max(self.start, 0.0), 0.0)


def sound_tracks(path: Path, container: InputContainer, audio_track: int | None) -> list[Track]:
    """The sound tracks, best first: default tracks before others, then by number of channels, as FFmpeg chooses.

    Args:
        path: the file, for messages.
        container: the opened file.
        audio_track: index of the only track to use, from 0; None: any.

    Raises:
        MomeError: there is no such track.
    """
    streams = _known(container.streams.audio)
    if audio_track is None:
        rank = [(_default(stream), stream.codec_context.layout.nb_channels) for stream in streams]
        numbers = sorted(range(len(streams)), key=lambda number: rank[number], reverse=True)
    elif type(audio_track) is not int:
        raise MomeError(f"{audio_track=} is not possible: give the number of a sound track, counted from 0")
    elif 0 <= audio_track < len(streams):
        numbers = [audio_track]
    else:
        has = f"{len(streams)} sound tracks, numbered from 0" if streams else "no sound"
        raise MomeError(f"{path} has no sound track {audio_track}: it has {has}")
    several = audio_track is None and len(streams) > 1
    names = ", ".join(_name(number, stream) for number, stream in enumerate(streams))
    hint = f"has {len(streams)} sound tracks ({names}); using {{}}, --audio-track chooses another"
    return [
        _track(container, streams[number], sound_excess(streams[number]), hint.format(number) if several else None)
        for number in numbers
    ]


def video_tracks(container: InputContainer) -> list[Track]:
    """The video tracks without cover art, best first: default tracks before others, then by size."""
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
    stream: AudioStream | VideoStream,
    excess: str | None,
    choice: str | None,
    aspect: Fraction | None = None,
) -> Track:
    start = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
    return Track(stream.index, Clock(), start, _declared_end(container, stream, start), excess, choice, aspect)


def _known(streams: Iterable[_S]) -> list[_S]:
    """The streams whose codec FFmpeg has."""
    return [stream for stream in streams if stream.codec_context is not None]


def _default(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _name(number: int, stream: Stream) -> str:
    words = (stream.metadata.get("language"), stream.metadata.get("title"))
    said = " ".join(word for word in words if word and word != "und")
    return f"{number}: {said}" if said else str(number)


def _declared_end(container: InputContainer, stream: AudioStream | VideoStream, start: float) -> float | None:
    kinds = container.format.name.split(",")
    if "wav" in kinds and stream.codec_context.name.startswith("pcm_"):  # other codecs vary their bit rate
        return _declared_wave(container, stream)
    if "mp4" in kinds:
        return start + float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    # Matroska has a tag for when a stream ends on the file's clock; it may be left over from another file.
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip())
    if "matroska" not in kinds or tag is None or not container.duration:
        return None
    end = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return min(end, container.duration / av.time_base)


def _declared_wave(container: InputContainer, stream: AudioStream | VideoStream) -> float | None:
    """Length in seconds by the size in a RIFF header; None if unknown, as when it was written to a pipe."""
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


def declared_duration(container: InputContainer, tracks: list[Track]) -> float | None:
    """Declared seconds from the first start to the last end of all tracks; None if the file has no such figure."""
    kinds = container.format.name.split(",")
    if not container.duration or len(container.streams) != len(tracks) or {"mp4", "matroska"}.isdisjoint(kinds):
        return None
    return container.duration / av.time_base - max(0.0, min(track.start for track in tracks))
