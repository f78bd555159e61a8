"""Cut the mouths of GRID's clips and synthesize clips of many voices, once, for the training scripts.

    python scripts/mome_tiny/prepare.py GRID_FOLDER OUT_FOLDER [--synthetic 1600]

Writes one .npz a clip: audio (float16, 16 kHz), mouth (uint8), words (start, end, word), and index.json.
An interrupted run goes on where it stopped. GRID's split `test` and `unseen` are left alone.
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

from mome.files import atomic_write

HELD_OUT_EVERY = 8  # every eighth synthetic voice is kept for evaluation
VALID_SYNTHETIC = 60


def save(path: Path, audio: np.ndarray, mouth: np.ndarray, words: list, text: str) -> None:
    starts, ends, names = (np.array(x) for x in zip(*words, strict=True))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, audio=audio.astype(np.float16), mouth=mouth, starts=starts, ends=ends, words=names, text=text)


def real(job: tuple[str, str, list, str]) -> None:
    from mome.media import load_clip

    source, target, words, text = job
    if not Path(target).exists():
        clip = load_clip(source)
        assert clip.audio is not None
        assert clip.mouth is not None
        save(Path(target), clip.audio, clip.mouth, words, text)


def synthetic(job: tuple[str, str, str, int]) -> None:
    from mome.synthesis import synthesize

    target, text, voice, seed = job
    if not Path(target).exists():
        clip = synthesize(text, voice, seed)
        save(Path(target), clip.audio, clip.mouth, list(clip.words), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--synthetic", type=int, default=1600)
    args = parser.parse_args()
    from mome.synthesis import VOICES
    from mome.text.grid import random_sentence

    args.out.mkdir(parents=True, exist_ok=True)
    alignment = json.loads((args.grid / "s1.align.json").read_text())
    index, real_jobs, kept_back = [], [], set()
    with open(args.grid / "manifest.csv") as file:
        for row in csv.DictReader(file):
            if row["split"] not in ("train", "valid"):
                kept_back.add(row["text"])
                continue
            words = [w for w in alignment[Path(row["path"]).stem] if w[2] not in ("sil", "sp")]
            target = args.out / f"{row['id']}.npz"
            index.append({"id": row["id"], "split": row["split"], "kind": "real", "text": row["text"]})
            real_jobs.append((str(args.grid / row["path"]), str(target), words, row["text"]))
    kept_back |= {r["text"] for r in index if r["split"] == "valid"}
    rng = np.random.default_rng(2026)
    held_out, training = list(VOICES[::HELD_OUT_EVERY]), [v for i, v in enumerate(VOICES) if i % HELD_OUT_EVERY]
    synthetic_jobs = []
    for number in range(args.synthetic + VALID_SYNTHETIC):
        valid = number >= args.synthetic
        text = random_sentence(rng)
        while text in kept_back:
            text = random_sentence(rng)
        voice = str(rng.choice(held_out if valid else training))
        name = f"synthetic_{number:05d}"
        split = "valid" if valid else "train"
        index.append({"id": name, "split": split, "kind": "synthetic", "text": text, "voice": voice})
        synthetic_jobs.append((str(args.out / f"{name}.npz"), text, voice, number))
    with ProcessPoolExecutor(os.cpu_count(), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for step, jobs in ((real, real_jobs), (synthetic, synthetic_jobs)):
            for done, _ in enumerate(pool.map(step, jobs, chunksize=8), start=1):
                if done % 100 == 0 or done == len(jobs):
                    print(f"{step.__name__}: {done}/{len(jobs)}", flush=True)
    (args.out / "index.json").write_text(json.dumps(index, indent=0))


if __name__ == "__main__":
    main()
