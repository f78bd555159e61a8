"""Write part of prepare.py's synthetic clips as video files with a manifest, for the Matryoshka stage.

    python scripts/mome_tiny/synthesize.py DATA OUT [--train 400] [--test 100]

DATA is what prepare.py wrote; the clips are made again from their sentence, voice and seed. The split `test` is new:
sentences and seeds that no training clip has, spoken by the voices that prepare.py kept back.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from mome.text.grid import random_sentence

FIRST_TEST_SEED = 1_000_000


def write(job: tuple[str, str, str, int]) -> None:
    """One clip, unless it is there."""
    from mome.synthesis import synthesize, write_clip

    target, text, voice, seed = job
    if not Path(target).exists():
        write_clip(synthesize(text, voice, seed), Path(target))


def unseen_entries(entries: list[dict], count: int) -> list[dict]:
    """Test clips."""
    known = {e["text"] for e in entries}
    voices = sorted({e["voice"] for e in entries if e["split"] == "valid"})
    rng, chosen = np.random.default_rng(FIRST_TEST_SEED), []
    while len(chosen) < count:
        text = random_sentence(rng)
        if text not in known:
            name = f"synthetic_{FIRST_TEST_SEED + len(chosen)}"
            chosen.append({"id": name, "split": "test", "text": text, "voice": str(rng.choice(voices))})
            known.add(text)
    return chosen


def main() -> None:
    """Write the clips and manifest.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=100)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    entries = [e for e in json.loads((args.data / "index.json").read_text()) if e["kind"] == "synthetic"]
    chosen = [e for e in entries if e["split"] == "train"][: args.train]
    chosen += [e for e in entries if e["split"] == "valid"]
    chosen += unseen_entries(entries, args.test)
    jobs = [(str(args.out / f"{e['id']}.mp4"), e["text"], e["voice"], int(e["id"].split("_")[1])) for e in chosen]
    with ProcessPoolExecutor(os.cpu_count(), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for done, _ in enumerate(pool.map(write, jobs, chunksize=8), start=1):
            if done % 100 == 0 or done == len(jobs):
                print(f"{done}/{len(jobs)}", flush=True)
    with open(args.out / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "split", "text", "voice"])
        writer.writerows([e["id"], f"{e['id']}.mp4", e["split"], e["text"], e["voice"]] for e in chosen)


if __name__ == "__main__":
    main()
