"""Clips kept on disk, so that later epochs and runs need not read their media files again."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import signal
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mome.archive import find_member
from mome.children import begin_child, ignored_by_children
from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, Clip, length
from mome.data.manifests import ManifestRow
from mome.errors import MomeError, shortened
from mome.files import atomic_write, disk_errors
from mome.media import load_clip
from mome.media.face import DetectorError, FaceDetector, check_detector

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number of clips done and of all clips."""

_Stored = tuple[tuple[str, ...], MomeError | None]
_ARRAYS = (
    ("audio", SAMPLE_RATE, "audio"),
    ("mouth", FRAME_RATE, "video"),
)  # of a stored clip, and which option keeps it


class _Job(NamedTuple):
    """A clip to store: its media file, the file to write if any, and the options of :class:`ClipStore`."""

    row: ManifestRow
    target: Path | None
    audio: bool
    video: bool
    longest: float | None
    longest_video: float | None


def file_name(*parts: object) -> str:
    """The name, without its ending, of a file whose contents depend on ``parts``."""
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=10).hexdigest()


class ClipStore:
    """Sound and mouth crops of clips, read from their media files once.

    Clips in tar files, as ``mome data prepare`` makes them, are read where they are: copies would only take space.

    Args:
        folder: folder of the files, which runs can share; it can be deleted at any time.
        audio, video: the modalities to keep; a clip that lacks one is refused.
        longest, longest_video: longest sound and video accepted, in seconds; ``None`` for no limit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        audio: bool,
        video: bool,
        longest: float | None = None,
        longest_video: float | None = None,
    ):
        self.folder, self.audio, self.video = folder, audio, video
        self.limits = (longest, longest_video)

    def file(self, row: ManifestRow) -> Path:
        """The file of a clip.

        Its name depends on the media file's path, size and modification time and on the row's excerpt. Clips in tar
        files have no such file, but its name tells them apart.
        """
        stamp = _stamp(row.path)
        part = row.excerpt
        sound = () if part.sound is None or not self.audio else (part.sound.resolve(), *_stamp(part.sound))
        excerpt = (part.start, part.end, *sound) if part.is_part or sound else ()
        return self.folder / f"{file_name(row.path.resolve(), *stamp, self.audio, self.video, *excerpt)}.npz"

    def prepare(self, rows: Sequence[ManifestRow], workers: int, progress: Progress) -> None:
        """Store the clips that are not stored yet; after an interruption, call it again.

        Raises:
            MomeError: a clip cannot be read or lacks a modality.
        """
        missing = [row for row in rows if not self.has(row)]
        for done, (_, error) in enumerate(self.store(missing, workers), start=1):
            if error is not None:
                raise error
            progress("reading clips", done, len(missing))

    def has(self, row: ManifestRow) -> bool:
        """Whether a clip is stored, or need not be as it is in a tar file; not so if its media file is missing."""
        try:
            return find_member(row.path) is not None or self.file(row).exists()
        except (MomeError, OSError):  # a damaged tar file, or nothing there
            return False

    def store(self, rows: Sequence[ManifestRow], workers: int) -> Iterator[tuple[ManifestRow, MomeError | None]]:
        """Store clips, or for those in tar files try to read them; ``workers`` processes do so.

        Yields:
            Every row in order when it is done, with the error if its clip cannot be read or lacks a modality.

        Raises:
            MomeError: a clip cannot be written, or no face detector can be used.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [self._job(row) for row in rows]
        for row, (warnings, error) in zip(rows, self._run(jobs, workers), strict=True):
            _log(warnings)
            yield row, error

    def _job(self, row: ManifestRow) -> _Job:
        try:
            target = self.file(row) if find_member(row.path) is None else None
        except (MomeError, OSError):  # reading the clip tells why
            target = None
        return _Job(row, target, self.audio, self.video, *self.limits)

    def _store(self, row: ManifestRow) -> None:
        for _, error in self.store([row], 0):
            if error is not None:
                raise error

    @staticmethod
    def _run(jobs: list[_Job], workers: int) -> Iterator[_Stored]:
        if workers < 2:
            yield from map(_store_clip, jobs)
            return
        # Spawned: a fork of a process with threads of PyTorch or OpenCV can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=begin_child) as pool:
            with ignored_by_children(signal.SIGINT):
                stored = pool.map(_store_clip, jobs)
            yield from stored

    def load(self, row: ManifestRow) -> Clip:
        """Load a stored clip; if its file is missing or damaged, the media file is read again.

        Raises:
            MomeError: the media file cannot be read again.
        """
        if find_member(row.path) is not None:
            clip = _read_clip(self._job(row))
            _log(clip.warnings)
            return clip
        file = self.file(row)
        try:
            audio, mouth = self._read(file)
        except Exception as error:  # of any kind: NumPy and zipfile have many for a damaged file
            logger.warning("%s is missing or damaged (%s): reading the clip again", file, shortened(error))
            self._store(row)
            audio, mouth = self._read(file)
        return Clip(audio, mouth, length(audio, mouth), row.path)

    def _read(self, file: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
        with np.load(file, allow_pickle=False) as saved:
            audio = saved["audio"] if self.audio else None
            mouth = saved["mouth"] if self.video else None
        for array, dtype, sizes in ((audio, np.float32, ()), (mouth, np.uint8, (MOUTH_SIZE, MOUTH_SIZE))):
            if array is not None and (array.dtype != dtype or array.shape[1:] != sizes or not array.size):
                raise ValueError("another shape or type")
        if audio is not None and not np.isfinite(audio).all():
            raise ValueError("samples that are not finite")
        return audio, mouth

    def get(self, row: ManifestRow) -> Clip:
        """Load a clip, after storing it if it is not stored yet.

        Raises:
            MomeError: the clip cannot be read or lacks a modality.
        """
        if not self.has(row):
            self._store(row)
        return self.load(row)

    def frames(self, row: ManifestRow) -> int:
        """Length of a clip in video frames, 25 a second: as the manifest says, else that of the stored clip.

        Raises:
            MomeError: as :meth:`load`.
        """
        seconds = None if row.frames else self._seconds(row)
        return row.frames or max(1, round((self.load(row).seconds if seconds is None else seconds) * FRAME_RATE))

    def _seconds(self, row: ManifestRow) -> float | None:
        """Seconds of a stored clip by the headers of its arrays alone; ``None`` if they cannot be read."""
        if find_member(row.path) is not None:
            return None
        arrays = [(name, rate) for name, rate, own in _ARRAYS if getattr(self, own)]
        try:
            with zipfile.ZipFile(self.file(row)) as saved:
                return max(_items(saved, name) / rate for name, rate in arrays)
        except Exception:  # of any kind: NumPy and zipfile have many for a damaged file
            return None


def _items(saved: zipfile.ZipFile, name: str) -> int:
    """Length of an array in a file of ``numpy.savez``."""
    with saved.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_1_0(file)[0][0])


@cache
def detector() -> FaceDetector:
    """The face detector of this process."""
    return FaceDetector()


def _log(warnings: tuple[str, ...]) -> None:
    for line in warnings:
        logger.warning("%s", line)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a media file, or of the tar file that it is in."""
    member = find_member(path)
    stat = (path if member is None else member.archive).stat()
    return stat.st_size, stat.st_mtime_ns


def _store_clip(job: _Job) -> _Stored:
    """Store a clip; returns its warnings, for the main process to log, and the error if it cannot be read."""
    try:
        clip = _read_clip(job)
    except DetectorError:
        raise
    except MomeError as error:
        return (), error
    arrays = {"audio": clip.audio, "mouth": clip.mouth}
    if job.target is not None:
        with atomic_write(job.target) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{key: value for key, value in arrays.items() if value is not None})
    return clip.warnings, None


def _read_clip(job: _Job) -> Clip:
    """Read a clip from its media files; raises :class:`MomeError` if a modality is missing."""
    row, _, audio, video, longest, longest_video = job
    clip = load_clip(
        row.path,
        audio=audio,
        video=video,
        longest=longest,
        longest_video=longest_video,
        detector=detector(),
        excerpt=row.excerpt,
    )
    if video and clip.mouth is None:
        check_detector()
    for required, array, name in ((audio, clip.audio, "sound"), (video, clip.mouth, "visible mouth")):
        if required and array is None:
            raise MomeError(f"{row.path} has no {name}: take it out of the manifest or train another task")
    return clip
