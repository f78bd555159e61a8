"""Small odd media files for the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SHARED = Path(__file__).parents[3] / "shared"
TALKING = SHARED / "grid" / "s1" / "bbaf2n.mp4"


def click(seconds: float, at: float, rate: int) -> np.ndarray:
    """(samples,) float32: silence with 5 ms of noise starting ``at`` seconds."""
    wave = np.zeros(round(seconds * rate), np.float32)
    start = round(at * rate)
    wave[start : start + rate // 200] = 0.9 * np.random.default_rng(0).choice([-1, 1], rate // 200)
    return wave


def write(
    path: Path,
    frames: Sequence[np.ndarray] | None = None,
    times: Sequence[float] | None = None,
    wave: np.ndarray | None = None,
    *,
    rate: int = 16_000,
    wave_start: float = 0.0,
    audio_codec: str = "pcm_s16le",
    video_codec: str = "ffv1",
    rotation: int = 0,
    aspect: Fraction | None = None,
    container: str | None = None,
    clock: Fraction = Fraction(1, 90_000),
) -> Path:
    """Write grey or BGR frames shown at ``times`` (seconds) and a wave, (samples,) or (channels, samples)."""
    with av.open(str(path), "w", format=container) as out:
        video = audio = None
        if frames is not None:
            video = out.add_stream(video_codec, rate=1 / clock)
            video.codec_context.thread_count = 1  # the same file on every machine
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv420p"
            video.time_base = video.codec_context.time_base = clock
            if aspect:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation:
                video.set_display_rotation(rotation)
        if wave is not None:
            wave = np.atleast_2d(wave)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(wave)]
            audio = out.add_stream(audio_codec, rate=rate, layout=layout)
        if video is not None and frames is not None:
            for picture, time in zip(frames, times or [k / 25 for k in range(len(frames))], strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "bgr24")
                frame.pts, frame.time_base = round(time / clock), clock
                for packet in video.encode(frame.reformat(format="yuv420p")):
                    out.mux(packet)
            out.mux(video.encode(None))
        if audio is not None and wave is not None:
            for start in range(0, wave.shape[1], 1000):
                block = np.ascontiguousarray(wave[:, start : start + 1000], dtype=np.float32)
                sound = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
                sound.pts = start + round(wave_start * rate)
                out.mux(audio.encode(sound))
            out.mux(audio.encode(None))
    return path


def encode(path: Path, wave: np.ndarray, rate: int, codec: str, layout: str) -> Path:
    """Write (samples,) float32 into every channel of any layout, with any codec."""
    channels = av.AudioLayout(layout).nb_channels
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, len(wave), 1024):
            block = np.repeat(wave[start : start + 1024], channels)[None].astype(np.float32)
            sound = av.AudioFrame.from_ndarray(block, "flt", layout)
            sound.sample_rate, sound.pts, sound.time_base = rate, start, Fraction(1, rate)
            out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    return path


def remux(
    path: Path,
    *sources: Path,
    keep: Callable[[float], bool] = lambda time: True,
    defaults: Sequence[int] = (),
) -> Path:
    """Copy the streams of some files into one, as they are.

    Args:
        path: to write.
        sources: to read.
        keep: which packets to copy, by their time.
        defaults: for every stream, in order, whether it is marked as default; all have the format's own mark otherwise.
    """
    with av.open(str(path), "w") as out:
        packets: list[av.Packet] = []
        for source in sources:
            with av.open(str(source)) as container:
                streams = {stream.index: out.add_stream_from_template(stream) for stream in container.streams}
                for packet in container.demux():
                    if packet.size and keep(float(packet.dts * packet.time_base)):
                        packet.stream = streams[packet.stream_index]
                        packets.append(packet)
        for stream, mark in zip(out.streams, defaults, strict=False):
            stream.disposition = av.stream.Disposition.default if mark else av.stream.Disposition(0)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path
