"""Measure what docs/media.md says of memory and time.

    PYTHONPATH=. python scripts/figures/media.py

Each file is read in a process of its own; its peak is that above what the process held with everything imported.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from scripts.figures.conversion import alone

from mome.evaluation.result import run_document, write_json
from mome.media import load_clip

SIDE, RATE = 96, 48_000


def write_sound(path: Path, seconds: int) -> None:
    """Stereo noise in FLAC."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("flac", rate=RATE, layout="stereo")
        for _ in range(seconds):
            wave = (3000 * rng.standard_normal((1, 2 * RATE))).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="stereo")
            frame.rate = RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def write_crops(path: Path, seconds: int) -> None:
    """Mouth crops of 96 pixels in H.264, with mono sound in AAC."""
    rng = np.random.default_rng(0)
    smooth = [np.kron(rng.integers(256, size=(6, 6), dtype=np.uint8), np.ones((16, 16), np.uint8)) for _ in range(25)]
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("h264", rate=25), out.add_stream("aac", rate=16_000, layout="mono")
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        for _ in range(seconds):
            for picture in smooth:
                out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")))
            wave = (0.1 * rng.standard_normal((1, 16_000))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.rate = 16_000
            out.mux(audio.encode(frame))
        for stream in (video, audio):
            out.mux(stream.encode(None))


def measure(path: Path) -> dict[str, Any]:
    """Bytes and seconds of reading one file."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    clip = load_clip(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = {"file_bytes": path.stat().st_size, "program_bytes": 1024 * before, "peak_bytes": 1024 * (peak - before)}
    return {"lasts_seconds": clip.seconds, **sizes, "seconds": seconds}


FILES = {
    "48 kHz stereo FLAC": ("a.flac", write_sound, 3600),
    "mouth crops, H.264, with sound": ("a.mp4", write_crops, 1200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/media.json"))
    args = parser.parse_args()
    command = shlex.join(["PYTHONPATH=.", "python", *sys.argv])
    document = run_document(command=command, model=None, data="noise", seed=0)
    document["reading"] = []
    for name, (file, write, seconds) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            alone(write, path, seconds)
            document["reading"].append({"file": name, **alone(measure, path)})
    write_json(args.out, document)


if __name__ == "__main__":
    main()
