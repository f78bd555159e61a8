"""Measure reading films of a face, from the file to sound and mouth crops, and how long the program takes to start.

    python -m benchmarks.reading GRID/manifest.csv

Films are read by ``load_clip``, which looks for the face in every fourth frame, and in every one for comparison, in
turn; their sound is read too. Times are CPU seconds of one thread; a share is that of a film's own length.
"""

from __future__ import annotations

import argparse
import random
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from mome.analysis.cost import machine
from mome.clip import FRAME_RATE
from mome.data.manifests import read_manifest
from mome.evaluation.result import run_document, write_json
from mome.media import detection, load_clip
from mome.media.face import FaceDetector

FILMS, STARTS = 12, 5
PROGRAMS = {
    "import mome": "import mome",
    "mome --help": "import sys; sys.argv = ['mome', '--help']; from mome.cli import main; main()",
    "mome.load": "import mome; mome.load",
}


class CountingDetector(FaceDetector):
    """Notes how long it takes, and how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.frames = 0.0, 0

    def __call__(self, picture: np.ndarray, scale: float = 1.0) -> Any:
        """As the detector's."""
        began = time.thread_time()
        faces = super().__call__(picture, scale)
        self.seconds, self.frames = self.seconds + time.thread_time() - began, self.frames + 1
        return faces


def read(paths: list[Path]) -> dict[str, Any]:
    """Times of both ways, and how their crops differ."""
    ways = {"every_frame": 1, "some_frames": detection.STEP}
    detectors = {name: CountingDetector() for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    searching: dict[str, list[float]] = {name: [] for name in ways}
    looks: dict[str, list[int]] = {name: [] for name in ways}
    differences = []
    for number, path in enumerate([paths[0], *paths]):
        mouths = []
        for name, step in ways.items():
            detection.STEP, detector = step, detectors[name]
            before, looked, began = detector.seconds, detector.frames, time.thread_time()
            mouth = load_clip(path, detector=detector).mouth
            took = time.thread_time() - began
            assert mouth is not None
            mouths.append(mouth.astype(float))
            if number:  # the first warms up
                shares[name].append(took * FRAME_RATE / len(mouth))
                searching[name].append((detector.seconds - before) / took)
                looks[name].append(detector.frames - looked)
        differences.append(np.abs(mouths[0] - mouths[1]).mean())
    found: dict[str, Any] = {
        name: {
            "share_of_real_time": median(shares[name]),
            "share_of_real_time_range": [min(shares[name]), max(shares[name])],
            "of_it_looking_for_faces": median(searching[name]),
            "frames_looked_at": median(looks[name]),
        }
        for name in ways
    }
    return {**found, "mean_difference_of_crops": median(differences)}


def start(code: str) -> dict[str, Any]:
    """CPU seconds of a new process."""
    seconds = []
    for _ in range(STARTS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": median(seconds[1:]), "seconds_range": [min(seconds[1:]), max(seconds[1:])]}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/reading.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = random.Random(0).sample(read_manifest(args.manifest, args.split), FILMS)
    command = shlex.join(["python", "-m", "benchmarks.reading", *sys.argv[1:]])
    document = {
        **run_document(command=command, model=None, data=str(args.manifest), seed=0),
        "machine": machine(torch.device("cpu")),
        "films": [row.id for row in rows],
        "reading": read([row.path for row in rows]),
        "starting": {name: start(code) for name, code in PROGRAMS.items()},
    }
    write_json(args.out, document)
    for name in ("every_frame", "some_frames"):
        row = document["reading"][name]
        print(f"{name}: {row['share_of_real_time']:.3f} of real time, {row['of_it_looking_for_faces']:.0%} for faces")
    print(f"crops differ by {document['reading']['mean_difference_of_crops']:.2f} of 255 in the mean")
    for name, row in document["starting"].items():
        print(f"{name}: {row['seconds']:.2f} s")


if __name__ == "__main__":
    main()
