"""Preparation of a corpus: mouth crops and sound of every clip, computed once and kept small, in tar files.

The clips of a manifest are divided into shards in its order. Each shard is the work of one process, and ends as
``SPLIT-00000.tar`` in the layout of WebDataset (``KEY.mp4``, ``KEY.flac``, ``KEY.txt``) with a report beside it, which
is written last: so a shard is there or it is not, whatever kills the process, and processes and machines share nothing
but the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import re
import signal
import tarfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange

from mome.children import begin_child, ignored_by_children
from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, Clip, Excerpt
from mome.cluster import Lost, Stage, process
from mome.data.clips import detector
from mome.data.manifests import ManifestRow, write_failures, write_manifest
from mome.errors import MomeError, in_one_line
from mome.files import atomic_write, disk_errors, write_text
from mome.media import load_clip
from mome.media.decode import probe
from mome.media.face import check_detector

CLIPS_PER_SHARD = 200
"""What a killed process loses at most: minutes of its work."""
CRF = 22
"""Of H.264: the mean difference of a pixel is about 1 of 255."""
_X264 = "mbtree=0"  # x264's tree of macroblocks gives other bytes now and then for pictures as small as these
ROUNDING = 60.0
"""Decibels by which the rounding of the sound is at least below the sound: what lies lower takes most of the space."""
MANIFEST, FAILURES = "manifest.csv", "failures.csv"
_HASHES = ("sha256", "audio_sha256")  # columns of the manifest
_VERSION = 1  # of the shards; shards of another version are made again
_STALE = 3600.0  # seconds after which a temporary file that nobody wrote to is one that a killed process left
_DEATHS = 3  # processes that a clip may kill before it is a failure
_BREAKS = 10  # processes that may die at a shard

Progress = Callable[[int, int], None]
"""Called with the number of clips done and of all clips."""


@dataclass(frozen=True)
class Shard:
    """A part of the work: the name of its files, and its clips."""

    name: str
    rows: tuple[ManifestRow, ...]

    def key(self) -> str:
        """Digest of all that the shard depends on: its clips, and the sizes of their files."""
        digest = hashlib.blake2b(f"{_VERSION} {CRF} {ROUNDING}".encode(), digest_size=16)
        for row in self.rows:
            part = row.excerpt
            sizes = [_size(file) for file in (row.path, part.sound)]
            digest.update(repr((row.id, row.path.name, row.text, part.start, part.end, *sizes)).encode())
        return digest.hexdigest()


def shards(rows: Sequence[ManifestRow], clips: int = CLIPS_PER_SHARD) -> list[Shard]:
    """Divide rows into shards of at most ``clips`` clips of one split, in their order."""
    splits: dict[str, list[ManifestRow]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    return [
        Shard(f"{_key(split)}-{start // clips:05d}", tuple(own[start : start + clips]))
        for split, own in splits.items()
        for start in range(0, len(own), clips)
    ]


@dataclass(frozen=True)
class Prepared:
    """What a run found or left: clips and failures of all shards that are there, and how many shards are missing."""

    clips: int
    failures: list[tuple[str, str]]
    missing: int


def prepare(
    work: Sequence[Shard],
    folder: Path,
    workers: int = 1,
    share: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
    cluster: str | None = None,
) -> Prepared:
    """Prepare shards that are not there yet; when all are, write ``manifest.csv``, and ``failures.csv`` if any.

    After an interruption of any kind, call it again. Machines that share a folder give ``share``; if they do not,
    copy their files into one folder and call it once more.

    Args:
        work: all shards.
        folder: created if missing.
        workers: number of processes on this machine.
        share: ``(k, n)``: prepare only the k-th of n shares, with k from 1 to n.
        progress: called after every shard.
        cluster: address of a Ray cluster whose processes do the work, instead of ``workers``.

    Raises:
        MomeError: a file cannot be written, the folder has a manifest of another kind, the face detector cannot be
            used, processes are killed again and again, or the cluster cannot be used.
    """
    _check_manifest(folder / MANIFEST)
    check_detector()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".mome.*.part"):
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink(missing_ok=True)
    first, every = share
    own = work[first - 1 :: every]
    todo = [shard for shard in own if _report(folder, shard) is None]
    with disk_errors(folder):
        for shard in todo:  # the deaths of an earlier run may be those of the whole command
            _deaths(folder, shard).unlink(missing_ok=True)
    done = sum(len(shard.rows) for shard in own) - sum(len(shard.rows) for shard in todo)
    total = sum(len(shard.rows) for shard in own)
    run = _run(todo, folder, workers) if cluster is None else _run_on_ray(todo, folder, cluster)
    for shard in run:
        done += len(shard.rows)
        if progress is not None:
            progress(done, total)
    return _join(work, folder)


def _check_manifest(path: Path) -> None:
    """Raise :class:`MomeError` if there is a manifest that :func:`prepare` did not write."""
    if path.exists():
        with disk_errors(path), path.open(encoding="utf-8", errors="replace") as file:
            columns = file.readline().strip().split(",")
        if _HASHES[0] not in columns:
            raise MomeError(f"{path} is no manifest of prepared clips, and would be overwritten: give another folder")


def _run(todo: list[Shard], folder: Path, workers: int) -> Iterator[Shard]:
    """Make shards, and give each when it is there; a process that is killed is replaced."""
    if workers < 2:
        for shard in todo:
            _make(shard, folder)
            yield shard
        return
    waiting, breaks = deque(todo), Counter[str]()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads of OpenCV can hang

    def pool() -> ProcessPoolExecutor:
        """One process: if it is killed, no other stops with it."""
        return ProcessPoolExecutor(1, context, initializer=begin_child)

    idle = [pool() for _ in range(min(workers, len(todo)))]
    running: dict[Future[None], tuple[ProcessPoolExecutor, Shard]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, shard = idle.pop(), waiting.popleft()
                try:
                    with ignored_by_children(signal.SIGINT):
                        running[worker.submit(_make, shard, folder)] = (worker, shard)
                except BrokenProcessPool:  # killed while it waited
                    waiting.appendleft(shard)
                    idle.append(pool())
            for one in wait(running, return_when=FIRST_COMPLETED).done:
                worker, shard = running.pop(one)
                try:
                    one.result()
                except BrokenProcessPool:
                    worker.shutdown()
                    idle.append(pool())
                    waiting.appendleft(shard)
                    breaks[shard.name] += 1
                    if breaks[shard.name] == _BREAKS:
                        raise MomeError(
                            "worker processes are killed again and again, perhaps for want of memory: give fewer "
                            "--workers (what is done is kept)"
                        ) from None
                    continue
                idle.append(worker)
                yield shard
    finally:
        for worker in (*idle, *(worker for worker, _ in running.values())):
            worker.shutdown(cancel_futures=True)


def _run_on_ray(todo: list[Shard], folder: Path, address: str) -> Iterator[Shard]:
    """As :func:`_run`, on a Ray cluster."""
    for number, result in process(todo, [Stage(partial(_on_ray, folder))], address, tries=_BREAKS):
        shard = todo[number]
        if isinstance(result, Lost):
            raise MomeError(
                f"{shard.name}: processes are killed again and again, perhaps for want of memory (what is done is kept)"
            )
        if _report(folder, shard) is None:
            raise MomeError(f"{folder} is not the same on all machines of the cluster: give a folder that they share")
        yield shard


def _on_ray(folder: Path) -> Callable[[Shard], None]:
    cv2.setNumThreads(1)
    return partial(_make, folder=folder)


def _make(shard: Shard, folder: Path) -> None:
    """Write a shard's tar file and then its report."""
    clips: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    key, tar = shard.key(), folder / f"{shard.name}.tar"
    names: set[str] = set()
    with (
        _Deaths(_deaths(folder, shard)) as deaths,
        atomic_write(tar) as temporary,
        tarfile.open(temporary, "w") as archive,
    ):
        for row in shard.rows:
            if not deaths.survives(row.id):
                failures.append((row.id, f"{row.path} killed {_DEATHS} processes, by a fault in a decoder or its size"))
                continue
            name = _key(row.id)
            if name in names:
                name = f"{name}-{hashlib.blake2b(row.id.encode(), digest_size=4).hexdigest()}"
            names.add(name)
            try:
                clip = _read(row)
                files = _files(clip, row.text)
            except OSError:  # of the disk; media files that cannot be read are no such errors
                raise
            except Exception as error:  # of any kind: an odd clip must not stop the others
                failures.append((row.id, in_one_line(error)))
                continue
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{name}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            hashes = {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()}
            frames = max(1, round(clip.seconds * FRAME_RATE))
            clips.append({"id": row.id, "name": name, "frames": frames, "sha256": hashes, "notes": clip.warnings})
    report = {"key": key, "bytes": tar.stat().st_size, "clips": clips, "failures": failures}
    write_text(folder / f"{shard.name}.json", json.dumps(report))


class _Deaths:
    """A file of the clips at which processes died, while a shard is made; a context manager.

    A clip is in it before it is read, and no more when the next one is: nothing can be written at the death itself.
    Each run begins anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before: dict[str, int] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):  # missing or damaged
            self.before = {str(name): int(number) for name, number in json.loads(path.read_text("utf-8")).items()}

    def survives(self, name: str) -> bool:
        """Begin a clip, unless too many processes died at it."""
        number = self.before.get(name, 0)
        write_text(self.path, json.dumps({**self.before, name: min(number + 1, _DEATHS)}))
        return number < _DEATHS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _deaths(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.deaths"


def _report(folder: Path, shard: Shard) -> dict[str, Any] | None:
    """The report of a shard; ``None`` if it is not there, not complete or of other clips."""
    try:
        report = json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8"))
        same = report["key"] == shard.key() and report["bytes"] == _size(folder / f"{shard.name}.tar")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if same else None


def _join(work: Sequence[Shard], folder: Path) -> Prepared:
    """Write the manifest of all shards, if all are there."""
    rows: list[ManifestRow] = []
    failures: list[tuple[str, str]] = []
    hashes: dict[str, dict[str, str]] = {column: {} for column in _HASHES}
    missing = 0
    for shard in work:
        report = _report(folder, shard)
        if report is None:
            missing += 1
            continue
        failures += map(tuple, report["failures"])
        known = {row.id: row for row in shard.rows}
        for clip in report["clips"]:
            row, own = known[clip["id"]], clip["sha256"]
            files = [suffix for suffix in (".mp4", ".flac") if suffix in own]
            path, *sound = (folder / f"{shard.name}.tar" / f"{clip['name']}{suffix}" for suffix in files)
            for column, suffix in zip(hashes, files, strict=False):
                hashes[column][row.id] = own[suffix]
            rows.append(
                ManifestRow(row.id, path, row.split, row.text, Excerpt(sound=next(iter(sound), None)), clip["frames"])
            )
    if not missing:
        write_manifest(folder / MANIFEST, rows, {name: own for name, own in hashes.items() if own})
        if failures:
            write_failures(folder / FAILURES, failures)
        else:
            (folder / FAILURES).unlink(missing_ok=True)
    return Prepared(len(rows), failures, missing)


def _read(row: ManifestRow) -> Clip:
    """The clip's sound and mouth; raises :class:`MomeError` if there is a video in which no mouth is found."""
    clip = load_clip(row.path, detector=detector(), excerpt=row.excerpt)
    if clip.mouth is None and probe(row.path).video is not None:
        raise MomeError(next(iter(clip.warnings), f"{row.path} has no visible mouth"))
    return clip


def _files(clip: Clip, text: str) -> dict[str, bytes]:
    """The files of a prepared clip, by suffix."""
    files = {} if clip.mouth is None else {".mp4": encode_mouth(clip.mouth)}
    if clip.audio is not None:
        files[".flac"] = encode_sound(clip.audio)
    return {**files, ".txt": text.encode()}


def encode_mouth(mouth: np.ndarray, crf: int = CRF) -> bytes:
    """Mouth crops ``(frames, 96, 96)`` uint8 as H.264 in MP4, full range: at CRF 0, what is decoded is the same."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FRAME_RATE, options={"crf": str(crf), "x264-params": _X264})
        stream.width = stream.height = MOUTH_SIZE
        stream.pix_fmt = "yuv420p"  # what every player reads; the colours take next to nothing
        stream.codec_context.color_range = ColorRange.JPEG
        stream.codec_context.thread_count = 1
        for picture in mouth:
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            # By default PyAV 19 scales in threads that it keeps.
            file.mux(stream.encode(frame.reformat(format="yuv420p", dst_color_range=ColorRange.JPEG, threads=1)))
        file.mux(stream.encode(None))
    return data.getvalue()


def encode_sound(sound: np.ndarray) -> bytes:
    """Sound ``(samples,)`` float32 in [-1, 1] as FLAC, 16 kHz mono of 16 bits.

    The lowest bits are zero, which FLAC does not store, as far as :data:`ROUNDING` allows: the noise of rounding to
    multiples of ``step`` has the power ``step² / 12``.
    """
    data = io.BytesIO()
    loudness = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) * 2**15
    largest = loudness * 10 ** (-ROUNDING / 20) * math.sqrt(12)
    step = 2 ** max(0, math.floor(math.log2(largest))) if largest > 1 else 1
    samples = np.clip(np.rint(sound * (2**15 / step)) * step, -(2**15), 2**15 - step).astype(np.int16)
    with av.open(data, "w", format="flac") as file:
        options = {"compression_level": "12"}
        stream = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono", options=options)
        stream.codec_context.open()
        block = stream.codec_context.frame_size
        for start in range(0, len(samples), block):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + block], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return data.getvalue()


def _key(name: str) -> str:
    """A name for files of it: WebDataset's names end at the first dot."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]
    return key if key == name else f"{key}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def _size(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None
