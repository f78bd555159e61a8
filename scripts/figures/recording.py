"""Measure what docs/media.md says of long recordings and of mouths that move; some ten minutes of one core.

    PYTHONPATH=. python scripts/figures/recording.py data/grid

GRID with the word times in s1.align.json; MOME_FACE_DETECTOR or the network for the face detector. Six minutes of clips
in a row are encoded anew; each way of reading them has a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from scripts.figures.conversion import alone

import mome
from mome.clip import FRAME_RATE
from mome.evaluation.result import run_document, write_json
from mome.media import detection, load_clip, reading
from mome.media.face import Face, FaceDetector
from mome.media.motion import cut_by_motion, mouth_motion, moves
from mome.media.recording import Recording
from mome.rates import Rates
from mome.text.wer import word_errors

SEED, SPAN, STEPS = 0, 3, (1, 3, 4, 5, 8)


class Counting(FaceDetector):
    """Counts the pictures that are searched."""

    pictures = 0

    def __call__(self, picture: np.ndarray, scale: float = 1.0) -> list[Face]:
        self.pictures += 1
        return super().__call__(picture, scale)


def detections(rows: list[dict[str, str]], grid: Path) -> Iterator[dict[str, Any]]:
    """Detection in every frame and in every n-th: cost, distance of the points, word errors."""
    transcriber, rates = mome.load(), [Rates.parse("-,2"), Rates.parse("4,2")]
    points: list[np.ndarray] = []
    crop = reading.crop

    def noting(grey: np.ndarray, five: np.ndarray) -> np.ndarray:
        points.append(five)
        return crop(grey, five)

    reading.crop = noting
    expected: np.ndarray | None = None
    for step in STEPS:
        detection.STEP, detector, begun = step, Counting(), time.thread_time()
        points.clear()
        clips = [load_clip(grid / row["path"], detector=detector) for row in rows]
        seconds, found = time.thread_time() - begun, np.stack(points)
        expected = found if expected is None else expected
        off = np.linalg.norm(found - expected, axis=2).mean(axis=1)
        texts = [transcriber.transcribe_rates(clip, rates) for clip in clips]
        said = [row["text"] for row in rows]
        yield {
            "step": step,
            "detections_a_frame": detector.pictures / len(found),
            "cpu_ms_a_frame": 1000 * seconds / len(found),
            "points_off_pixels": {"mean": float(off.mean()), "95 %": float(np.percentile(off, 95))},
            "word_errors": {
                str(rate): sum(each.errors for each in word_errors(said, [text[k].text for text in texts]))
                for k, rate in enumerate(rates)
            },
            "words": sum(len(text.split()) for text in said),
        }


def altered(crop: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Frozen pictures of a mouth with what is no speech, (75, 96, 96) uint8 each."""
    rng, count = np.random.default_rng(SEED), 3 * FRAME_RATE
    still = np.repeat(crop[None], count, axis=0)
    light = 1 + 0.15 * np.sin(2.1 * np.arange(count))[:, None, None] * np.ones((1, 1, 1))
    yield "frozen", still
    yield "frozen, light flickers", np.clip(still * light, 0, 255).astype(np.uint8)
    for noise in (2, 4):
        noisy = still + rng.normal(0, noise, still.shape)
        yield f"frozen, noise of {noise} grey levels", np.clip(noisy, 0, 255).astype(np.uint8)
    for size in (0.5, 1.0):
        yield (
            f"frozen, jitter of {size} px and degrees",
            np.stack([turned(crop, *rng.normal(0, size, 3)) for _ in still]),
        )
    slow = np.arange(count) / 9
    yield (
        "frozen, turning",
        np.stack([turned(crop, *(3 * np.sin(at), 2 * np.sin(at / 1.3), 4 * np.sin(at))) for at in slow]),
    )


def turned(crop: np.ndarray, right: float, down: float, degrees: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((47.5, 47.5), degrees, 1.0)
    matrix[:, 2] += (right, down)
    return cv2.warpAffine(crop, matrix, crop.shape, borderMode=cv2.BORDER_REPLICATE)


def motion(rows: list[dict[str, str]], grid: Path) -> dict[str, Any]:
    """Which mouths move by :func:`mome.media.motion.moves`, and where the pieces of a clip begin and end."""
    times, detector = json.loads((grid / "s1.align.json").read_text()), FaceDetector()
    kinds: dict[str, list[bool]] = {}
    before, after = [], []
    for row in rows:
        with Recording(grid / row["path"], audio=False, detector=detector) as recording:
            mouth = recording.mouth(0, recording.seconds)
        assert mouth is not None
        spoken = mouth
        if Path(row["path"]).stem in times:
            words = [word for word in times[Path(row["path"]).stem] if word[2] not in ("sil", "sp")]
            start, end = words[0][0], words[-1][1]
            spoken = mouth[round(FRAME_RATE * start) : round(FRAME_RATE * end)]
            for silent in (mouth[: int(FRAME_RATE * (start - 0.3))], mouth[int(FRAME_RATE * (end + 0.35)) :]):
                if len(silent) >= 6:
                    there = np.concatenate([silent, silent[-2:0:-1]])
                    repeated = np.concatenate([there] * 20)[: 3 * FRAME_RATE]
                    kinds.setdefault("silent, back and forth", []).append(moves(repeated))
            pieces = cut_by_motion(mouth_motion(mouth), 10)
            before.append(start - pieces[0].start)
            after.append(pieces[-1].end - end)
        kinds.setdefault("speaking", []).append(moves(spoken))
        for share in (3, 5):
            side = 96 // share
            small = [
                cv2.resize(cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA), (96, 96)) for each in spoken
            ]
            kinds.setdefault(f"speaking, 1/{share} of the resolution", []).append(moves(np.stack(small)))
        for name, crops in altered(mouth[0]):
            kinds.setdefault(name, []).append(moves(crops))
    shares = {name: {"mouths": len(found), "moving": float(np.mean(found))} for name, found in kinds.items()}
    edges = {"before_speech": float(np.median(before)), "after_speech": float(np.median(after))}
    return {"mouths": shares, "median_seconds_of_pieces": edges}


def write_joined(path: Path, clips: list[Path]) -> None:
    """Clips in a row, H.264 and AAC as GRID has them."""
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=FRAME_RATE), out.add_stream("aac", rate=44_100, layout="mono")
        video.width, video.height, video.pix_fmt, video.options = 360, 288, "yuv420p", {"preset": "veryfast"}
        shown = heard = 0
        for clip in clips:
            with av.open(str(clip)) as source:
                pictures = [frame.to_ndarray() for frame in source.decode(video=0)]
            with av.open(str(clip)) as source:
                sound = np.concatenate([frame.to_ndarray() for frame in source.decode(audio=0)], axis=1)
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
                frame.pts, frame.time_base = shown, Fraction(1, FRAME_RATE)
                out.mux(video.encode(frame))
                shown += 1
            sound = np.pad(sound, ((0, 0), (0, 44_100)))[:, : 44_100 * len(pictures) // FRAME_RATE]
            for start in range(0, sound.shape[1], 1024):
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1024]), "fltp", "mono")
                block.sample_rate, block.pts, block.time_base = 44_100, heard, Fraction(1, 44_100)
                heard += block.samples
                out.mux(audio.encode(block))
        for stream in (video, audio):
            out.mux(stream.encode(None))


def cost(path: Path, whole: bool) -> dict[str, float]:
    """CPU seconds and bytes of reading a file, at once or in spans."""
    detector = FaceDetector()
    detector(np.zeros((288, 360, 3), np.uint8))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on, not that of the imports
    held, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if whole:
        load_clip(path, detector=detector)
    else:
        with Recording(path, detector=detector) as recording:
            for _ in recording.sound():
                pass
            for start in np.arange(0, recording.seconds, SPAN):
                recording.mouth(start, start + SPAN)
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held)
    return {"cpu_seconds": time.process_time() - begun, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/recording.json"))
    args = parser.parse_args()
    with (args.grid / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test, valid, unseen = ([row for row in rows if row["split"] == split] for split in ("test", "valid", "unseen"))
    command = shlex.join(["PYTHONPATH=.", "python", *sys.argv])
    document = run_document(command=command, model="mome-tiny", data="GRID", seed=SEED)
    document["motion"] = motion([*test[:30], *valid[:30], *unseen], args.grid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "six.mp4"
        write_joined(path, [args.grid / row["path"] for row in rows if row["split"] == "train"][:120])
        document["six_minutes"] = {
            name: alone(cost, path, name == "load_clip") for name in ("load_clip", "in spans of 3 s")
        }
    document["detection"] = list(detections([*test[:30], *unseen], args.grid))
    write_json(args.out, document)


if __name__ == "__main__":
    main()
