"""Measure what docs/scaling.md says of costs: CPU seconds of the clips' stages, and what many clips take.

    MOME_BACKBONES=build/backbones PYTHONPATH=. python scripts/figures/scaling.py GRID

GRID is a folder with the corpus's clips in s1. Times are CPU seconds of all threads of this process; OpenCV has one.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import pickle
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import mome
from mome import archive
from mome.clip import Excerpt
from mome.data.augmentation import Augmentation
from mome.data.clips import ClipStore
from mome.data.datasets import SpeechDataset
from mome.data.manifests import ManifestRow, read_manifest, write_manifest
from mome.data.prepare import CLIPS_PER_SHARD, MANIFEST, prepare, shards
from mome.data.sampling import FrameBudgetSampler
from mome.data.tables import table_text
from mome.decoding.capacity import transcript_tokens
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip

CLIPS, REPEATS = 10, 3
MILLION = 10**6
TEXT = "and this is about as much as somebody says in four seconds of a talk"


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def held() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def stages(grid: Path, folder: Path) -> dict[str, Any]:
    """Preparing clips and reading them prepared."""
    paths = sorted(grid.glob("s1/*.mp4"))[:: max(1, len(list(grid.glob("s1/*.mp4"))) // CLIPS)][:CLIPS]
    rows = [ManifestRow(str(number), path, "train", TEXT) for number, path in enumerate(paths)]
    load_clip(paths[0])  # loads the libraries
    load = spent(lambda: [load_clip(path) for path in paths])
    whole = spent(lambda: prepare(shards(rows), folder))
    prepared = read_manifest(folder / MANIFEST)
    seconds = sum(row.frames or 0 for row in prepared) / 25
    read = spent(lambda: [load_clip(row.path, excerpt=row.excerpt) for _ in range(REPEATS) for row in prepared])
    noise = np.random.default_rng(0).standard_normal(16_000 * 60).astype(np.float32) / 10
    store = ClipStore(folder / "unused", audio=True, video=True)
    dataset = SpeechDataset(prepared, store, mome.load("mome-tiny").processor, Augmentation((noise,), (0.0,)), 0)
    loaded = spent(lambda: [dataset[place, epoch] for epoch in range(REPEATS) for place in range(len(prepared))])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(preparing_peak, rows, folder / "again").result()
    return {
        "clips": len(rows),
        "seconds": seconds,
        "load_cpu_seconds_per_hour": load / seconds * 3600,
        "prepare_cpu_seconds_per_hour": whole / seconds * 3600,
        "prepare_peak_bytes": peak,
        "read_prepared_cpu_seconds_per_hour": read / REPEATS / seconds * 3600,
        "read_prepared_cpu_ms_per_clip": read / REPEATS / len(rows) * 1e3,
        "training_example_cpu_seconds_per_hour": loaded / REPEATS / seconds * 3600,
    }


def preparing_peak(rows: list[ManifestRow], folder: Path) -> int:
    """The most bytes that a process holds while it prepares clips."""
    prepare(shards(rows), folder)
    status = Path("/proc/self/status").read_text()  # resource's peak is that of the process that started this one too
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def index(folder: Path) -> dict[str, float]:
    """Finding clips in a tar file with as many members as a full shard has."""
    file = folder / "full.tar"
    with tarfile.open(file, "w") as members:
        for clip in range(CLIPS_PER_SHARD):
            for suffix, size in ((".mp4", 13_000), (".flac", 41_000), (".txt", 60)):
                member = tarfile.TarInfo(f"clip_{clip:07d}{suffix}")
                member.size = size
                members.addfile(member, io.BytesIO(bytes(size)))
    build = archive._index.__wrapped__
    seconds = spent(lambda: [build(file, 0, 0) for _ in range(20)]) / 20
    clips = [(f"clip_{clip:07d}", file / f"clip_{clip:07d}.mp4") for clip in range(CLIPS_PER_SHARD)]
    rows = [
        ManifestRow(name, member, "train", TEXT, Excerpt(sound=member.with_suffix(".flac"))) for name, member in clips
    ]
    write_manifest(folder / "full.csv", rows)
    member = clips[CLIPS_PER_SHARD // 2][1]
    archive.find_member(member)

    def read(missing_files: bool) -> float:
        return spent(
            lambda: [read_manifest(folder / "full.csv", "train", missing_files=missing_files) for _ in range(9)]
        )

    return {
        "build_cpu_ms": seconds * 1e3,
        "bytes": len(build(file, 0, 0)),
        "check_cpu_us_per_row": (read(False) - read(True)) / 9 / CLIPS_PER_SHARD * 1e6,
        "find_cpu_us": spent(lambda: [archive.find_member(member) for _ in range(10_000)]) / 10_000 * 1e6,
    }


def manifest(folder: Path, count: int) -> dict[str, Any]:
    """A manifest of ``count`` prepared clips, as every process of a training reads it, and what follows from it."""
    file, digest = folder / "many.csv", "0123456789abcdef" * 4
    columns = ("id", "path", "split", "text", "audio", "frames", "sha256", "audio_sha256")
    lines = (
        (f"clip_{n:09d}", f"{tar}/clip_{n:09d}.mp4", "train", f"{TEXT} {n}", f"{tar}/clip_{n:09d}.flac", 50 + n % 350)
        for n in range(count)
        for tar in (f"train-{n // CLIPS_PER_SHARD:05d}.tar",)
    )
    file.write_text(table_text(columns, ((*line, digest, digest) for line in lines)))
    before, start = held(), time.process_time()
    rows = read_manifest(file, "train", missing_files=True)
    read, size = time.process_time() - start, held() - before
    lengths = [row.frames or 0 for row in rows]
    start = time.process_time()
    sampler = FrameBudgetSampler(lengths, 1500)
    made = time.process_time() - start
    transcriber = mome.load("mome-base")
    texts = [(row.id, row.text) for row in rows[: count // 10]]
    tokens = spent(lambda: transcript_tokens(texts, transcriber.model.config, transcriber.processor)) * 10
    hours = sum(lengths) / 25 / 3600
    return {
        "rows": count,
        "hours": hours,
        "csv_bytes_per_row": file.stat().st_size / count,
        "read_cpu_seconds": read,
        "memory_bytes_per_row": size / count,
        "sampler_cpu_seconds": made,
        "epoch_cpu_seconds": spent(lambda: [None for _ in sampler]),
        "tokenizing_cpu_seconds": tokens,
        "lengths_pickled_bytes": len(pickle.dumps(lengths)),
    }


def one_folder(folder: Path, count: int) -> dict[str, Any]:
    """As many files in one folder as a cache of clips or features has: making them, and finding all again."""
    names = [f"{number:020x}.npz" for number in np.random.default_rng(0).permutation(count)]
    (folder / "cache").mkdir()
    return {
        "files": count,
        "make_cpu_us": spent(lambda: [(folder / "cache" / name).touch() for name in names]) / count * 1e6,
        "find_cpu_us": spent(lambda: [(folder / "cache" / name).exists() for name in names]) / count * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--rows", type=int, default=MILLION)
    parser.add_argument("--out", type=Path, default=Path("results/scaling.json"))
    given = parser.parse_args()
    cv2.setNumThreads(1)
    document = run_document(command="python scripts/figures/scaling.py grid", model=None, data="grid", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "manifest": manifest(Path(folder), given.rows),
            "stages": stages(given.grid, Path(folder) / "prepared"),
            "tar_index": index(Path(folder)),
            "folder": one_folder(Path(folder), given.rows // 10),
        }
    write_json(given.out, {**document, **figures})
    print(figures)


if __name__ == "__main__":
    main()
