"""Limits on the length and size of media files, so that no file exhausts the machine's memory.

A second of sound takes 64 kB of memory, a second of mouth crops 230 kB; docs/media.md has measurements. A file beyond
a limit is refused with an error of one line that names it, before anything is decoded if the file declares its size.
"""

from __future__ import annotations

import av

LONGEST_SOUND = 4 * 3600.0
"""Seconds of sound, and of a recording that is read piece by piece."""
LONGEST_VIDEO = 3600.0
"""Seconds of video that are held at once."""
LONGEST_STILL = 600.0
"""Seconds in all that a video may stand still because frames are missing for longer than a second."""
SLOWEST_SOUND, FASTEST_SOUND = 4_000, 768_000
"""Sample rates in Hz."""
MOST_CHANNELS = 64
MOST_PIXELS = 8192 * 4320
"""Pixels of a frame: 8K cinema."""


def sound_excess(stream: av.AudioStream) -> str | None:
    """Which limit a sound stream exceeds, as the end of an error message; None if it exceeds none."""
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
    if rate and not SLOWEST_SOUND <= rate <= FASTEST_SOUND:
        allowed = f"{SLOWEST_SOUND} to {FASTEST_SOUND} can be read"
        return f"its sound has {rate} samples a second, {allowed}: convert it with ffmpeg -ar 16000 or leave it out"
    if channels > MOST_CHANNELS:
        return f"its sound has {channels} channels, at most {MOST_CHANNELS} can be read: mix it down with ffmpeg -ac 1"
    return None


def picture_excess(width: int, height: int) -> str | None:
    """Which limit pictures of this size exceed, as the end of an error message; None if they exceed none."""
    if width * height <= MOST_PIXELS:
        return None
    return f"its pictures have {width}x{height} pixels, at most {MOST_PIXELS} in all can be read: scale it with ffmpeg"
