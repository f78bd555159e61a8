"""How much of a file is read at most, so that no file asks for more memory or time than a machine has.

Sound costs 64 kB of memory a second, a mouth 230 kB; docs/media.md has measured figures. A file beyond a limit is
refused with one line that names it, before anything is decoded where the file itself says how large it is.
"""

from __future__ import annotations

import av

LONGEST_SOUND = 4 * 3600.0
"""Seconds of sound."""
LONGEST_VIDEO = 3600.0
"""Seconds of video."""
LONGEST_STILL = 600.0
"""Seconds that a video may stand still in all because frames are missing for a second or longer."""
SLOWEST_SOUND, FASTEST_SOUND = 4_000, 768_000
"""Sample rates in Hz."""
MOST_CHANNELS = 64
MOST_PIXELS = 8192 * 4320
"""Pixels of a frame: 8K cinema."""


def sound_excess(stream: av.AudioStream) -> str | None:
    """What is too much about a stream of sound, as the end of a line; None: nothing."""
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
    if rate and not SLOWEST_SOUND <= rate <= FASTEST_SOUND:
        allowed = f"{SLOWEST_SOUND} to {FASTEST_SOUND} can be read"
        return f"its sound has {rate} samples a second, {allowed}: convert it with ffmpeg -ar 16000 or leave it out"
    if channels > MOST_CHANNELS:
        return f"its sound has {channels} channels, at most {MOST_CHANNELS} can be read: mix it down with ffmpeg -ac 1"
    return None


def picture_excess(width: int, height: int) -> str | None:
    """What is too much about pictures of this size, as the end of a line; None: nothing."""
    if width * height <= MOST_PIXELS:
        return None
    return f"its pictures have {width}x{height} pixels, at most {MOST_PIXELS} in all can be read: scale it with ffmpeg"
