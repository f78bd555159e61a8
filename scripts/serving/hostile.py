"""Uploads that mean harm, or are broken: each a file, made from a seed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from scripts.serving.server import CLIP

Random = np.random.Generator


def damaged(rng: Random) -> bytes:
    """A real film with bytes overwritten."""
    data = bytearray(CLIP.read_bytes())
    for _ in range(int(rng.integers(1, 200))):
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data)


def cut(rng: Random) -> bytes:
    """A real film without its end, or without a piece of its middle."""
    data = CLIP.read_bytes()
    first, last = sorted(int(place) for place in rng.integers(len(data), size=2))
    return data[:first] if rng.random() < 0.5 else data[:first] + data[last:]


def noise(rng: Random) -> bytes:
    """Bytes at random, after the signature of some format."""
    marks = [b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x1aE\xdf\xa3", b"OggS\0\2", b"fLaC", b"ID3\4", b"\0\0\0 ftypisom"]
    marks += [b"GIF89a", b"\xff\xfb\x90", b"FLV\1", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%PDF-1.7", b"PK\3\4"]
    return marks[rng.integers(len(marks))] + rng.bytes(int(rng.integers(1, 5000)))


def playlist(rng: Random) -> bytes:
    """A file that names other files: those beside it are what FFmpeg would follow the first two kinds to."""
    target = ["file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:1/x.ts", "concat:/etc/passwd|/etc/hosts"]
    name = [*target, "secret.ts", "secret.wav"][rng.integers(len(target) + 2)]
    kinds = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\n{name}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {name}\n",
        f"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
        f"<Representation id='1'><BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\na=control:{name}\n",
    ]
    return kinds[rng.integers(len(kinds))].encode()


def lying_wave(rng: Random) -> bytes:
    """A WAV file with impossible numbers in its header."""
    sizes = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF]
    rate, channels, bits = (int(rng.choice([0, 1, 8, 16, 65_535, 2**31])) for _ in range(3))
    head = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, rate, 2, bits & 0xFFFF)
    size = int(rng.choice(sizes))
    data = rng.bytes(int(rng.integers(2000)))
    return b"RIFF" + struct.pack("<I", size) + b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", size) + data


def bomb(rng: Random) -> bytes:
    """A picture that is small as a file and huge as pixels."""
    side = int(rng.choice([20_000, 60_000]))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def film_bomb(rng: Random) -> bytes:
    """A film of few bytes with large pictures, or with very many."""
    import av

    buffer = io.BytesIO()
    side, frames = ((4000, 2), (16, 2000))[rng.integers(2)]
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "gray"
        picture = av.VideoFrame.from_ndarray(np.zeros((side, side), np.uint8), format="gray")
        for number in range(frames):
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def empty(rng: Random) -> bytes:
    """Nothing, or hardly anything."""
    return bytes(int(rng.integers(3)))


KINDS: tuple[Callable[[Random], bytes], ...] = (damaged, cut, noise, playlist, lying_wave, bomb, film_bomb, empty)


def uploads(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of each, the kinds in turn."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield kind.__name__, kind(np.random.default_rng([seed, number]))
