"""Media files: small ones of many kinds, their bytes damaged, transcribed by the bundled model."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

import mome
from mome import MomeError, Rates
from scripts.fuzz.folders import CLIP
from scripts.fuzz.mutate import Random, damage, pick

# Container, video codec, sound codec, sampling rate, channel layout.
_KINDS = (
    ("mp4", "h264", "aac", 44_100, "mono"),
    ("mp4", "mpeg4", "aac", 48_000, "7.1"),
    ("mov", "mjpeg", "pcm_s16be", 16_000, "stereo"),
    ("matroska", "h264", "libopus", 48_000, "stereo"),
    ("matroska", "ffv1", "flac", 22_050, "5.1"),
    ("webm", "libvpx", "libopus", 48_000, "mono"),
    ("avi", "mpeg4", "mp2", 44_100, "stereo"),
    ("mpegts", "mpeg2video", "mp2", 48_000, "mono"),
    ("mpeg", "mpeg1video", "mp2", 44_100, "stereo"),
    ("nut", "ffv1", "pcm_f32le", 16_000, "mono"),
    ("wav", None, "pcm_s16le", 8_000, "stereo"),
    ("wav", None, "pcm_f64le", 16_000, "mono"),
    ("w64", None, "pcm_s32le", 96_000, "mono"),
    ("caf", None, "pcm_s24be", 44_100, "stereo"),
    ("aiff", None, "pcm_s16be", 11_025, "mono"),
    ("flac", None, "flac", 16_000, "mono"),
    ("ogg", None, "libopus", 48_000, "7.1"),
    ("ogg", None, "flac", 16_000, "stereo"),
    ("mp3", None, "libmp3lame", 22_050, "mono"),
    ("adts", None, "aac", 16_000, "stereo"),
    ("wv", None, "wavpack", 16_000, "7.1"),
    ("ac3", None, "ac3", 48_000, "5.1"),
    ("gif", "gif", None, 0, ""),
    ("flv", "flv1", "libmp3lame", 44_100, "mono"),
)
_SECONDS, _SIDE = 0.6, 96


@functools.cache
def seeds() -> list[bytes]:
    """A small file of each kind that this build of FFmpeg can write, and the shipped clip."""
    made = [CLIP.read_bytes()]
    for kind in _KINDS:
        try:
            made.append(_write(*kind))
        except (av.FFmpegError, ValueError) as error:
            print(f"{kind}: not written here ({error})", file=sys.stderr)
    return made


def _write(container: str, video_codec: str | None, audio_codec: str | None, rate: int, layout: str) -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        video = out.add_stream(video_codec, rate=25) if video_codec else None
        audio = out.add_stream(audio_codec, rate=rate, layout=layout) if audio_codec else None
        if video is not None:
            video.width = video.height = _SIDE
            video.pix_fmt = (video.codec.video_formats or [av.VideoFormat("yuv420p")])[0].name
            for _ in range(round(_SECONDS * 25)):
                picture = rng.integers(256, size=(_SIDE, _SIDE, 3), dtype=np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(video.encode(None))
        if audio is not None:
            channels = av.AudioLayout(layout).nb_channels
            wave = (3000 * rng.standard_normal((1, round(_SECONDS * rate) * channels))).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
            frame.rate = rate
            resampler = av.AudioResampler(format=audio.format, layout=layout, rate=rate, frame_size=audio.frame_size)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(audio.encode(part))
            out.mux(audio.encode(None))
    return buffer.getvalue()


@functools.cache
def transcriber() -> mome.Transcriber:
    """The bundled model, loaded once for all cases."""
    return mome.load()


def make(rng: Random, folder: Path) -> tuple[Callable[[], None], str]:
    """A damaged file in ``folder``; its transcription, and what it was made of."""
    number = int(rng.integers(len(seeds())))
    data = damage(seeds()[number], rng, pick(rng, seeds()))
    path = folder / f"clip.{pick(rng, ('mp4', 'mkv', 'wav', 'bin'))}"
    path.write_bytes(data)
    rates = Rates.parse(pick(rng, ("4,2", "16,5", "4,-", "-,2")))
    return lambda: _transcribe(path, rates), f"seed file {number}, {len(data)} bytes, {rates}"


def _transcribe(path: Path, rates: Rates) -> None:
    try:
        print(transcriber().transcribe(path, rates).text)
    except MomeError as error:
        print(f"mome: {error}")
        sys.exit(2)
