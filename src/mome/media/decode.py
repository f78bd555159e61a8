"""Opening media files, bringing their streams onto one clock, and decoding packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Stream

from mome.archive import find_member
from mome.clip import FRAME_RATE
from mome.errors import MomeError, reason
from mome.media.clock import BROKEN_CLOCK, survey
from mome.media.limits import MOST_PIXELS
from mome.media.tracks import Track, declared_duration, sound_tracks, video_tracks

# Formats that only point to other files or to servers.
_PLAYLISTS = frozenset(
    ["concat", "dash", "hds", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"]
)
_FORMATS = {"format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS))}
_OPEN: dict[str, Any] = {}
if int(av.__version__.split(".")[0]) < 19:
    _OPEN["metadata_errors"] = "replace"  # what is not UTF-8; the default from version 19 on
# A file is cut off if it holds less than this share of its declared seconds, by more than _ROUNDING seconds.
_COMPLETE, _ROUNDING = 0.9, 0.1
_TOLERATED_LOSS = 0.02  # share of a stream's packets


@dataclass(frozen=True)
class Media:
    """The tracks to read from a file, None where it has none, and their common clock."""

    path: Path
    audio: Track | None
    video: Track | None
    audio_origin: float
    video_origin: float
    """Seconds on the file's own clock at t = 0 of the clip: the same for both tracks, unless they start so far apart
    that the clock must be broken."""
    declared: float | None = None
    """Declared seconds from the first start to the last end of the tracks; None if not reliable."""

    def check_complete(self, *tracks: Track | None) -> None:
        """Raise :class:`MomeError` if the file or one of ``tracks`` ends before its declared end."""
        clocks = [track.clock for track in (self.audio, self.video) if track is not None]
        held = [(track.clock.seconds, track.declared) for track in tracks if track is not None]
        if clocks:  # one stream may start where the other ends
            together = max(clock.end for clock in clocks) - min(clock.start for clock in clocks)
            held.append((max(together, 0.0), self.declared))
        for seconds, declared in held:
            if declared is not None and seconds < _COMPLETE * declared - _ROUNDING:
                raise MomeError(
                    f"{self.path} is cut off: it ends after {seconds:.1f} of {declared:.1f} s: copy or download it "
                    "again, or cut it properly with ffmpeg to use what is left"
                )


@dataclass
class Damage:
    """What could not be decoded of a stream; false if nothing was lost.

    Attributes:
        packets: packets read.
        lost: packets that could not be decoded.
        cut_short: whether reading broke off.
        repairs: what was repaired, one clause each.
    """

    packets: int = 0
    lost: int = 0
    cut_short: bool = False
    repairs: list[str] = field(default_factory=list)

    @property
    def serious(self) -> bool:
        """Whether so much was lost that words may be missing."""
        return self.cut_short or self.lost > _TOLERATED_LOSS * self.packets

    def __bool__(self) -> bool:
        return bool(self.lost) or self.cut_short


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any exception into a :class:`MomeError` that names the file."""
    try:
        yield
    except MomeError:
        raise
    except Exception as error:
        raise MomeError(
            f"{path} cannot be decoded ({reason(error)}): convert it with ffmpeg or leave it out"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a file for reading; a failure becomes a :class:`MomeError` that names it."""
    # The prefix keeps FFmpeg from reading a name such as "a:b.mp4" as a protocol.
    url, protocols = f"file:{path}", "file"
    if (member := find_member(path)) is not None:
        url, protocols = f"subfile,,start,{member.start},end,{member.end},,:file:{member.archive}", "file,subfile"
    try:
        container = av.open(url, mode="r", options={"protocol_whitelist": protocols, **_FORMATS}, **_OPEN)
    except (FFmpegError, OSError, ValueError) as error:
        raise MomeError(
            f"{path} cannot be opened as audio or video: it is damaged, incomplete or of another kind; "
            f"check that it plays, or convert it with ffmpeg ({reason(error)})"
        ) from None
    with container:
        yield container


def declared_seconds(path: Path) -> float | None:
    """The length that a file declares; None if it says nothing or cannot be opened."""
    try:
        if not S_ISREG(path.stat().st_mode):
            return None
        with _opened(path) as container:
            return container.duration / av.time_base if container.duration else None
    except (MomeError, OSError, ValueError):
        return None


def declared_pixels(path: Path) -> int:
    """Pixels of the largest picture that a file declares; 0 if it says nothing or cannot be opened."""
    try:
        with _opened(path) as container:
            known = [stream for stream in container.streams.video if stream.codec_context is not None]
            return max((stream.width * stream.height for stream in known), default=0)
    except (MomeError, OSError, ValueError):
        return 0


def probe(path: Path, audio_track: int | None = None) -> Media:
    """Choose the tracks of a file and find when they start and how long they last.

    Only the first frames are decoded.

    Args:
        path: the file.
        audio_track: index of the sound track to read, from 0; None: the default one.

    Raises:
        MomeError: the path is missing, a folder, empty or not a media file, or has no such track.
    """
    try:
        member = find_member(path)
        status = (path if member is None else member.archive).stat()
    except (OSError, ValueError) as error:
        raise MomeError(f"{path} cannot be read: check the path ({reason(error)})") from None
    if S_ISDIR(status.st_mode):
        raise MomeError(f"{path} is a folder: give a video or audio file")
    if not S_ISREG(status.st_mode):  # reading it might never end
        raise MomeError(f"{path} is no regular file: save what it gives as a file first")
    if status.st_size == 0 or (member is not None and member.start == member.end):
        raise MomeError(f"{path} is empty (0 bytes): copy or record it again")
    with _opened(path) as container:
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise MomeError(f"{path} is a picture: give a video or audio file")
        sounds, videos = sound_tracks(path, container, audio_track), video_tracks(container)
    audio, video = _first_with_content(path, sounds), _first_with_content(path, videos)
    chosen = [track for track in (audio, video) if track is not None]
    with _opened(path) as container:
        declared = declared_duration(container, chosen) if chosen else None
        streams = [container.streams[track.index] for track in chosen]
        joined = bool(container.format.flags & cast(int, Flags.ts_discont.value))
        clocks = survey(_demuxed(container, streams), joined) if chosen else {}
    audio, video = (track and replace(track, clock=clocks.get(track.index, track.clock)) for track in (audio, video))
    if audio is None or video is None or abs(video.start - audio.start) > BROKEN_CLOCK:
        declared = declared if audio is None or video is None else None  # meaningless if the clock is broken
        audio_origin, video_origin = (0.0 if track is None else track.start for track in (audio, video))
        return Media(path, audio, video, audio_origin, video_origin, declared)
    # The clip's clock keeps the phase of the video: the times k / 25 s are the frames' own times, whatever the offset
    # of the sound. That pads or drops at most half a frame (20 ms) of sound at the start.
    early = max(0.0, video.start - audio.start)
    origin = video.start - round(early * FRAME_RATE) / FRAME_RATE
    return Media(path, audio, video, origin, origin, declared)


def _first_with_content(path: Path, tracks: list[Track]) -> Track | None:
    """The first track that can be decoded, with the time of its first frame as its start.

    A track beyond the limits is returned without trying: reading it raises :class:`MomeError`.
    """
    for track in tracks:
        if track.excess is not None:
            return track
        for frame in chain.from_iterable(packets(path, track, Damage())):
            if getattr(frame, "samples", 1):
                stamp = frame.pts if frame.pts is not None else frame.dts
                return replace(track, start=0.0 if stamp is None else float(stamp * frame.time_base))
    return None


def _demuxed(container: InputContainer, streams: list[Stream]) -> Iterator[av.Packet[Any]]:
    """The packets of these streams, up to the first that cannot be read."""
    try:
        yield from (packet for packet in container.demux(streams) if packet.size)
    except FFmpegError:
        return


def packets(path: Path, track: Track, damage: Damage) -> Iterator[list[Any]]:
    """Decode one track, on the common clock: the audio or video frames of each packet.

    Packets that cannot be decoded are counted in ``damage`` and skipped.
    """
    with _opened(path) as container:
        stream = container.streams[track.index]
        if stream.type == "video":  # later pictures may be larger than the first
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        demuxed = container.demux(stream)
        number = 0
        while True:
            try:
                packet = next(demuxed, None)
            except FFmpegError:
                damage.cut_short = True
                return
            if packet is None:
                return
            damage.packets += 1
            if packet.size:
                track.clock.mend(packet, number)
                number += 1
            try:
                frames = packet.decode()
            except FFmpegError:
                damage.lost += 1
                continue
            yield frames
