"""Read transcribed clips faster and slower, so that few voices become more (Ko et al., Interspeech 2015).

    python scripts/mome_base/speeds.py MANIFEST OUT [--part librispeech --part voices] [--speed 0.85 ...]

Like speak.py it needs no package of this project, but soundfile. Writes OUT/ID-SPEED.ogg (Opus at about 15 kbit/s) of
the clips of the split train whose path names one of the parts, and OUT/manifest.csv. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

SPEEDS = (0.85, 0.93, 1.07, 1.15)
PARTS = ("librispeech", "ljspeech", "voices")


def resampled(sound: np.ndarray, speed: float) -> np.ndarray:
    """Samples played faster by ``speed``, and so higher: ``(samples / speed,)`` float32."""
    places = np.arange(int(len(sound) / speed)) * speed
    return np.interp(places, np.arange(len(sound)), sound).astype(np.float32)


def write(out: Path, speeds: tuple[float, ...], row: dict[str, str]) -> None:
    """Write a clip at every speed, unless its file is there."""
    files = {speed: out / name(row, speed) for speed in speeds}
    if all(file.exists() for file in files.values()):
        return
    sound, rate = soundfile.read(row["path"], dtype="float32")
    for speed, file in files.items():
        written = file.with_suffix(".part")
        quality = {"format": "OGG", "subtype": "OPUS", "compression_level": 0.97}
        soundfile.write(written, resampled(sound, speed), rate, **quality)
        written.rename(file)


def name(row: dict[str, str], speed: float) -> str:
    """Name of a clip's file at a speed."""
    return f"{row['id']}-{speed:g}.ogg"


def main() -> None:
    """Write the clips and their manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", action="append", help=f"part of a path; {' '.join(PARTS)} if not given")
    parser.add_argument("--speed", action="append", type=float, help=f"factor; {SPEEDS} if not given")
    args = parser.parse_args()
    speeds, parts = tuple(args.speed or SPEEDS), set(args.part or PARTS)
    args.out.mkdir(parents=True, exist_ok=True)
    with args.manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" and parts & set(Path(row["path"]).parts)]
    rows = [row | {"path": str(args.manifest.parent / row["path"])} for row in rows]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(write, args.out, speeds), rows, chunksize=8))
    with (args.out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "split", "text"])
        for row in rows:
            writer.writerows((f"{row['id']}-{speed:g}", name(row, speed), "train", row["text"]) for speed in speeds)
    print(f"{args.out / 'manifest.csv'}: {len(rows) * len(speeds)} clips")


if __name__ == "__main__":
    main()
