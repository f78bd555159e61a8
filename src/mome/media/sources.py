"""What a person has as a media file: a path, an address, bytes, a file object, arrays of sound and pictures.

All but a path becomes a temporary file, without loss. So channels are mixed, sound is resampled, faces are found and
limits are checked in one place for all of them, and memory does not grow with their length.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit

import av
import numpy as np

from mome.clip import FRAME_RATE, MOUTH_SIZE
from mome.errors import MomeError, reason, shortened
from mome.files import disk_errors
from mome.media.limits import FASTEST_SOUND, MOST_CHANNELS, SLOWEST_SOUND

LARGEST_SOURCE = 4 << 30
"""Bytes of a download, of a pipe or of a file in memory; they are kept on disk meanwhile."""
LONGEST_DOWNLOAD, LONGEST_WAIT = 1800.0, 30.0
"""Seconds that a download may take in all, and without a byte."""

_CHUNK = 1 << 16
_BLOCK = 4096  # samples of a packet
_CLOCK = Fraction(1, 90_000)
# Codec and sample format of each kind of array.
_CODECS = {"f4": ("pcm_f32le", "flt"), "i2": ("pcm_s16le", "s16"), "i4": ("pcm_s32le", "s32"), "u1": ("pcm_u8", "u8")}
_UNNAMED = "the recording"


@dataclass(frozen=True)
class Opened:
    """A source as a file.

    Attributes:
        path: the file.
        name: what the user calls it; empty if it has no name.
    """

    path: Path
    name: str

    def named(self, message: str) -> str:
        """A message with the source's name instead of the file's."""
        return message if self.name == str(self.path) else message.replace(str(self.path), self.name or _UNNAMED)


@contextmanager
def opened(
    source: Any, *, sampling_rate: float | None = None, frames: Any = None, frame_rate: float | None = None
) -> Iterator[Opened]:
    """Make a media file of a source, for the time of the block.

    Args:
        source: a path; an ``http`` or ``https`` address, which is downloaded; the bytes of a media file, or a binary
            file object with them; sound as an array or a tensor, ``(samples,)`` or ``(channels, samples)``, of floats
            in [-1, 1] or of integers (int16, int32, uint8) with the full scale of their type; or None with ``frames``.
        sampling_rate: samples a second of the array.
        frames: pictures beside that array, from the same moment on: ``(frames, 96, 96)`` uint8 mouth crops, or
            ``(frames, height, width, 3)`` uint8 RGB pictures, in which the face is searched.
        frame_rate: pictures a second; 25 by default for mouth crops.

    Addresses may be those of the user's own network: whoever passes on what strangers write must choose among them.

    Raises:
        MomeError: the source cannot be read or is too large, a download takes too long or leads elsewhere than to
            ``http`` and ``https``, or an array is not possible. Errors of the block name the source, not the file.
    """
    is_array = source is None or hasattr(source, "__array__")
    if not is_array:
        given = {"sampling_rate": sampling_rate, "frames": frames, "frame_rate": frame_rate}
        for name in (name for name, value in given.items() if value is not None):
            raise MomeError(f"{name} goes with sound in an array, other sources have their own: leave it out")
    if isinstance(source, str | os.PathLike) and not is_address(source):
        yield Opened(Path(source), str(Path(source)))
        return
    with tempfile.TemporaryDirectory(prefix="mome-") as folder:
        name = _name(source)
        file = Opened(Path(folder) / f"recording{_suffix(name)}", name)
        with disk_errors(name or _UNNAMED):
            if is_array:
                sound, rate = _sound(source, sampling_rate)
                _write(file.path, sound, rate, *_pictures(frames, frame_rate))
            elif isinstance(source, str):
                _download(source, file.path)
            elif isinstance(source, bytes | bytearray | memoryview):
                _check_size(len(source), _UNNAMED)
                file.path.write_bytes(source)
            elif hasattr(source, "read"):
                _copy(source.read, file.path, name or _UNNAMED)
            else:
                raise MomeError(
                    f"a {type(source).__name__} is no recording: give a path, an http address, bytes, a binary file "
                    "object or an array with sampling_rate"
                )
        try:
            yield file
        except MomeError as error:
            raise MomeError(file.named(str(error))) from error


def is_address(source: object) -> bool:
    """Whether it is an ``http`` or ``https`` address; raises :class:`MomeError` for those of other schemes."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source) if isinstance(source, str) else None
    if scheme is None:
        return False
    if scheme[1].lower() not in ("http", "https"):
        raise MomeError(f"{source} cannot be read: give an http or https address, or a path")
    return True


def _name(source: Any) -> str:
    """What the user calls a source."""
    name = source if isinstance(source, str) else getattr(source, "name", None) if hasattr(source, "read") else None
    return name if isinstance(name, str) else ""


def _suffix(name: str) -> str:
    """The end of the file name in an address or a path: some formats are known by it."""
    found = PurePosixPath(unquote(urlsplit(name).path)).suffix if is_address(name) else Path(name).suffix
    return found if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", found) else ""


# --- bytes -----------------------------------------------------------------------------------------------------------


class _Redirects(request.HTTPRedirectHandler):
    """Follows a few redirections, and only to where an address may lead."""

    max_redirections = 5

    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        is_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Opens ``http`` and ``https`` and nothing else; ``build_opener`` would add local files, FTP and data."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _download(url: str, path: Path) -> None:
    deadline = time.monotonic() + LONGEST_DOWNLOAD
    asked = request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "mome"})
    try:
        with _opener().open(asked, timeout=LONGEST_WAIT) as response:
            declared = response.length or 0
            _check_size(declared, url)
            received = _copy(response.read1, path, url, deadline)
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        why = reason(cause) if isinstance(cause, BaseException) else str(cause)
        raise MomeError(f"{url} cannot be downloaded ({shortened(why, 200)}): check the address") from error
    if received < declared:
        raise MomeError(f"{url} broke off after {received} of {declared} bytes: try again")


def _copy(read: Callable[[int], Any], path: Path, name: str, deadline: float | None = None) -> int:
    """Write what ``read`` gives to a file; returns the number of bytes."""
    size = 0
    with path.open("wb") as file:
        while chunk := read(_CHUNK):
            if isinstance(chunk, str):
                raise MomeError(f"{name} is a file of text: open it in binary mode")
            size += len(chunk)
            _check_size(size, name)
            if deadline is not None and time.monotonic() > deadline:
                raise MomeError(f"{name} takes longer than {LONGEST_DOWNLOAD:g} s to download: save it as a file first")
            file.write(chunk)
    return size


def _check_size(size: int, name: str) -> None:
    if size > LARGEST_SOURCE:
        raise MomeError(f"{name} has more than the {LARGEST_SOURCE >> 20} MiB that are taken: save it as a file first")


# --- arrays ----------------------------------------------------------------------------------------------------------


def _array(given: Any) -> np.ndarray:
    if hasattr(given, "detach"):  # a tensor, wherever it is; NumPy lacks some of the floating-point types
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    return np.asarray(given)


def _sound(given: Any, sampling_rate: float | None) -> tuple[np.ndarray | None, int]:
    """``(channels, samples)`` in a type of :data:`_CODECS`, and how many samples there are a second."""
    if given is None:
        if sampling_rate is not None:
            raise MomeError("sampling_rate is that of a sound, and there is none: leave it out")
        return None, 0
    if sampling_rate is None:
        raise MomeError("a sound in an array needs sampling_rate, its samples a second, such as 16000")
    if not SLOWEST_SOUND <= sampling_rate <= FASTEST_SOUND or sampling_rate != int(sampling_rate):
        raise MomeError(f"sampling_rate={sampling_rate} is not possible: give {SLOWEST_SOUND} to {FASTEST_SOUND}")
    sound = _array(given)
    kind = np.dtype(np.float32) if sound.dtype.kind == "f" else sound.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        sound = sound.astype(kind, copy=False)
    shape = f"the sound has shape {sound.shape}"
    if sound.ndim not in (1, 2):
        raise MomeError(f"{shape}: give (samples,) or (channels, samples)")
    if not sound.size:
        raise MomeError(f"{shape}: it is empty")
    sound = np.atleast_2d(sound)
    if len(sound) > MOST_CHANNELS:
        raise MomeError(f"{shape}, at most {MOST_CHANNELS} channels can be read: give (channels, samples)")
    if sound.dtype.str[1:] not in _CODECS:
        raise MomeError(f"the sound is of {sound.dtype}: give floats in [-1, 1], or int16, int32 or uint8")
    if not np.isfinite(sound).all():
        raise MomeError("the sound has samples that are NaN or infinite: give finite ones")
    return sound, int(sampling_rate)


def _pictures(given: Any, frame_rate: float | None) -> tuple[np.ndarray | None, float]:
    """The pictures, and how many there are a second."""
    if given is None:
        if frame_rate is not None:
            raise MomeError("frame_rate is that of frames, and there are none: leave it out")
        return None, 0.0
    frames = _array(given)
    crops = frames.shape[1:] == (MOUTH_SIZE, MOUTH_SIZE)
    if frames.dtype != np.uint8 or not frames.size or not (crops or (frames.ndim == 4 and frames.shape[3] == 3)):
        raise MomeError(
            f"frames has shape {frames.shape} and is of {frames.dtype}: give uint8 mouth crops "
            f"(frames, {MOUTH_SIZE}, {MOUTH_SIZE}) or RGB pictures (frames, height, width, 3)"
        )
    if frame_rate is None and not crops:
        raise MomeError("pictures need frame_rate, their number a second, such as 25")
    rate = float(FRAME_RATE if frame_rate is None else frame_rate)
    if not 1 <= rate <= 1000:
        raise MomeError(f"frame_rate={frame_rate} is not possible: give 1 to 1000")
    return frames, rate


def _write(path: Path, sound: np.ndarray | None, rate: int, frames: np.ndarray | None, frame_rate: float) -> None:
    """Write sound ``(channels, samples)`` and pictures to a Matroska file, without loss."""
    if sound is None and frames is None:
        raise MomeError("there is neither sound nor frames: give one of them")
    with av.open(str(path), "w", format="matroska") as file:
        film = None if frames is None else _film(file, frames, frame_rate)
        track = None if sound is None else _track(file, sound, rate)
        for stream, packets in (item for item in (film, track) if item is not None):
            for frame in packets:
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))


def _film(file: av.container.OutputContainer, frames: np.ndarray, rate: float) -> tuple[Any, Iterator[Any]]:
    """A stream for pictures, and the pictures."""
    kind, stored = ("gray", "gray") if frames.ndim == 3 else ("rgb24", "bgr0")
    stream = file.add_stream("ffv1", rate=Fraction(rate).limit_denominator(1001))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = stored
    stream.time_base = stream.codec_context.time_base = _CLOCK

    def pictures() -> Iterator[av.VideoFrame]:
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
            frame.pts, frame.time_base = round(number / rate / _CLOCK), _CLOCK
            yield frame.reformat(format=stored, threads=1)  # a process forked later would wait for more

    return stream, pictures()


def _track(file: av.container.OutputContainer, sound: np.ndarray, rate: int) -> tuple[Any, Iterator[Any]]:
    """A stream for sound, and the sound in blocks."""
    codec, kind = _CODECS[sound.dtype.str[1:]]
    layout = {1: "mono", 2: "stereo"}.get(len(sound), f"{len(sound)}C")
    stream = file.add_stream(codec, rate=rate, layout=layout)

    def blocks() -> Iterator[av.AudioFrame]:
        for start in range(0, sound.shape[1], _BLOCK):
            samples = np.ascontiguousarray(sound[:, start : start + _BLOCK].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
            yield frame

    return stream, blocks()
