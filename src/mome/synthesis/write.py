"""Writing a synthetic clip as an MP4 file that any player opens."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from mome.errors import MomeError
from mome.files import atomic_write
from mome.media import FRAME_RATE, SAMPLE_RATE
from mome.synthesis.clip import SyntheticClip

_AUDIO_BITS, _VIDEO_BITS = 96_000, 400_000


def write_clip(clip: SyntheticClip, path: Path) -> None:
    """Write ``clip`` as MP4: H.264 (MPEG-4 where PyAV lacks x264) at 25 fps and AAC mono at 16 kHz.

    The file appears under its name only once it is complete.  Raises :class:`MomeError` when ``path`` cannot
    be written.
    """
    path = Path(path)
    if path.suffix.lower() not in {".mp4", ".m4v", ".mov"}:
        raise MomeError(f"'{path}' is not an MP4 file name: a clip is written as .mp4")
    try:
        with atomic_write(path) as temporary:
            _encode(clip, temporary)
    except av.error.FFmpegError as error:
        raise MomeError(f"{path} cannot be written: {error}") from error


def _encode(clip: SyntheticClip, path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        picture = cast(av.VideoStream, container.add_stream(codec, rate=FRAME_RATE))
        picture.width, picture.height, picture.pix_fmt = clip.mouth.shape[2], clip.mouth.shape[1], "yuv420p"
        if codec == "libx264":
            picture.options = {"crf": "14", "preset": "veryfast", "bf": "0", "threads": "1"}
        else:
            picture.bit_rate = _VIDEO_BITS
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sound.bit_rate = _AUDIO_BITS
        # One thread each: the order in which several end would show in the file.
        picture.codec_context.thread_count = sound.codec_context.thread_count = 1

        step = SAMPLE_RATE // FRAME_RATE
        for index, grey in enumerate(clip.mouth):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(picture.encode(frame))
            block = np.ascontiguousarray(clip.audio[None, index * step : (index + 1) * step], dtype=np.float32)
            heard = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = (
                SAMPLE_RATE,
                index * step,
                Fraction(1, SAMPLE_RATE),
            )
            container.mux(sound.encode(heard))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
