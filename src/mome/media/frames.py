"""The pictures of a file: one for each time k / 25 s of the clip, upright and with square pixels."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np

from mome.clip import FRAME_RATE
from mome.errors import MomeError
from mome.media.decode import Damage, Media, packets
from mome.media.limits import LONGEST_SOUND, LONGEST_STILL, LONGEST_VIDEO

# Seconds that a timestamp may lie after a time k / 25 s and still count as shown at it. This absorbs the rounding of
# containers with millisecond clocks, and stays below half the frame distance of 50 fps.
_SLACK = 0.25 / FRAME_RATE
# Seconds by which the packets may last longer than the pictures shown.
_PADDING = 1 / FRAME_RATE


def check_video(media: Media, longest: float = LONGEST_VIDEO) -> None:
    """Check what the file declares about its video, before anything is decoded.

    Raises:
        MomeError: its pictures are too large, it is cut off, stands still too long or lasts longer
            than ``longest`` seconds.
    """
    if media.video is None:
        return
    if media.video.excess is not None:
        raise MomeError(f"{media.path}: {media.video.excess}")
    clock = media.video.clock
    if clock.seconds > longest + _PADDING:
        raise _too_long(media, clock.seconds, longest)
    if clock.still > LONGEST_STILL:
        raise _too_still(media)
    media.check_complete(media.video)


def _too_long(media: Media, seconds: float, most: float) -> MomeError:
    what = "that are read at most" if most in (LONGEST_VIDEO, LONGEST_SOUND) else "that can be lip-read at once"
    return MomeError(
        f"{media.path}: its video lasts {seconds:.2f} s, longer than the {most:g} s {what}: cut it into shorter clips"
    )


def _too_still(media: Media) -> MomeError:
    return MomeError(
        f"{media.path}: its video stands still for more than the {LONGEST_STILL:g} s that missing frames may last: "
        "use its sound alone"
    )


def _timed_frames(media: Media, damage: Damage) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """(time, duration, frame) with times in seconds that never run backwards."""
    assert media.video is not None
    time = duration = 0.0
    first = True
    for frame in chain.from_iterable(packets(media.path, media.video, damage)):
        expected = time + duration
        stamp = frame.pts if frame.pts is not None else frame.dts
        known = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        now = expected if stamp is None else float(stamp * frame.time_base)
        if not first:
            now = max(now, time)
        if known > 0:
            duration = min(known, 1.0)
        elif not first and now > time:
            duration = min(now - time, 1.0)
        duration = duration or 1 / FRAME_RATE
        time, first = now, False
        yield time, duration, frame


def read_frames(media: Media, damage: Damage, longest: float = LONGEST_VIDEO) -> Generator[av.VideoFrame, None, None]:
    """The frame shown at each time k / 25 s of the clip; the same object again while a frame lasts.

    A constant 25 fps video gives each frame once. A video that starts late repeats its first frame. Raises
    :class:`MomeError` as :func:`check_video` does, also for what only turns up while decoding.
    """
    if media.video is None:
        return
    check_video(media, longest)
    still, repeated, last = 0, 0, None
    for count, frame in enumerate(_at_frame_rate(media, damage), start=1):
        repeated, last = (repeated + 1 if frame is last else 0), frame
        still += repeated > FRAME_RATE
        if count > round(longest * FRAME_RATE):
            raise _too_long(media, max(count / FRAME_RATE, media.video.clock.seconds), longest)
        if still > LONGEST_STILL * FRAME_RATE:
            raise _too_still(media)
        yield frame


def _at_frame_rate(media: Media, damage: Damage) -> Iterator[av.VideoFrame]:
    """The frame shown at each time k / 25 s of the clip, without limits."""
    shown: av.VideoFrame | None = None
    count, shown_at, end = 0, media.video_origin, media.video_origin
    for time, duration, frame in _timed_frames(media, damage):
        while shown is not None and media.video_origin + count / FRAME_RATE + _SLACK < time:
            yield shown
            count += 1
        if shown is None:
            for _ in range(round((time - media.video_origin) * FRAME_RATE)):
                yield frame
                count += 1
        shown, shown_at, end = frame, time, time + duration
    # The last frame lasts as long as it declares, and is shown at least once.
    total = round((end - media.video_origin) * FRAME_RATE)
    total = max(total, int((shown_at - media.video_origin + _SLACK) * FRAME_RATE) + 1)
    while shown is not None and count < total:
        yield shown
        count += 1


def upright_size(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) in square pixels of an upright frame."""
    width, height = frame.width, frame.height
    if pixel_aspect and pixel_aspect > 0:
        width = max(round(width * pixel_aspect), 1)
    return (height, width) if _quarter_turns(frame) % 2 else (width, height)


def upright(frame: av.VideoFrame, size: tuple[int, int], colours: str) -> np.ndarray:
    """Convert a frame to an upright uint8 picture: (height, width) for ``gray``, (height, width, 3) for ``bgr24``."""
    turns = _quarter_turns(frame)
    width, height = size[::-1] if turns % 2 else size
    # By default PyAV 19 scales in threads that it keeps; a process forked later would wait for them for ever.
    picture = frame.to_ndarray(format=colours, width=width, height=height, threads=1)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns to the upright picture (phones store the rotation as metadata)."""
    return round(frame.rotation / 90) % 4
