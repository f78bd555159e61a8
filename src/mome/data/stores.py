"""Clips and encoder features kept on disk, so that later epochs and runs need not compute them again."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mome.adapters.files import save_tensors
from mome.archive import find_member
from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, Clip, length
from mome.data.augmentation import Augmentation
from mome.data.manifests import ManifestRow
from mome.errors import MomeError, shortened
from mome.files import atomic_write, disk_errors
from mome.media import load_clip
from mome.media.face import DetectorError, FaceDetector, check_detector
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number of clips done and of all clips."""

_Stored = tuple[tuple[str, ...], MomeError | None]
_ARRAYS = (
    ("audio", SAMPLE_RATE, "audio"),
    ("mouth", FRAME_RATE, "video"),
)  # of a stored clip, and which option keeps it
_CHECKSUM = "crc32"  # key in the metadata of a feature file


class _Job(NamedTuple):
    """A clip to store: its media file, the file to write if any, and the options of :class:`ClipStore`."""

    row: ManifestRow
    target: Path | None
    audio: bool
    video: bool
    longest: float | None
    longest_video: float | None


def _digest(*parts: object) -> str:
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
        return self.folder / f"{_digest(row.path.resolve(), *stamp, self.audio, self.video, *excerpt)}.npz"

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
        _make_folder(self.folder)
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


@contextmanager
def ignored_by_children(number: signal.Signals) -> Iterator[None]:
    """Let processes that start here ignore a signal such as Ctrl-C, which all receive: this process ends them."""
    if threading.current_thread() is not threading.main_thread():  # other threads must not set signal handlers
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def begin_child() -> None:
    """Begin a process of a pool: OpenCV has one thread, and the process ends if its parent is killed."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


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


def _make_folder(folder: Path) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def fingerprint(*modules: nn.Module | None) -> str:
    """Digest of the modules' weights, which tells the features of different encoders apart."""
    digest = hashlib.blake2b(digest_size=10)
    for module in modules:
        for name, value in () if module is None else module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureStore:
    """Encoder features of clips in several augmented variants, computed once by the frozen encoders.

    Args:
        folder: folder of the files.
        variants: number of augmented variants of each clip.
        key: everything else that the features depend on, such as encoders and augmentation.
        seed: seed of the augmentation.
        half: whether the encoders compute in bfloat16, by autocast.
    """

    def __init__(self, folder: Path, variants: int, key: object, seed: int, half: bool = False):
        self.folder, self.variants, self.key, self.seed, self.half = folder, variants, key, seed, half

    def file(self, clip_file: Path) -> Path:
        """The file with all variants of a stored clip."""
        return self.folder / f"{_digest(clip_file.name, self.variants, self.seed, self.key)}.safetensors"

    def prepare(
        self,
        rows: Sequence[ManifestRow],
        clips: ClipStore,
        augmentation: Augmentation,
        model: MomeForSpeechRecognition,
        processor: MomeProcessor,
        progress: Progress,
    ) -> None:
        """Encode and store the variants of all clips whose file is missing or damaged.

        Raises:
            MomeError: a clip cannot be read, or its features are too large for float16.
        """
        missing = [row for row in rows if not self.has(row, clips)]
        encoded = self.encode(missing, clips, augmentation, model, processor)
        for done, (_, error) in enumerate(encoded, start=1):
            if error is not None:
                raise error
            progress("encoding clips", done, len(missing))

    def has(self, row: ManifestRow, clips: ClipStore) -> bool:
        """Whether the variants of a clip are stored and not damaged."""
        return self._is_intact(self.file(clips.file(row)))

    def encode(
        self,
        rows: Sequence[ManifestRow],
        clips: ClipStore,
        augmentation: Augmentation,
        model: MomeForSpeechRecognition,
        processor: MomeProcessor,
    ) -> Iterator[tuple[ManifestRow, MomeError | None]]:
        """Encode and store the variants of clips.

        Yields:
            Every row in order when it is done, with the error if its clip cannot be read.

        Raises:
            MomeError: a file cannot be written, or features are too large for float16.
        """
        _make_folder(self.folder)
        for row in rows:
            try:
                clip = clips.load(row)
            except DetectorError:
                raise
            except MomeError as error:
                yield row, error
                continue
            rngs = [np.random.default_rng((self.seed, variant, *row.id.encode())) for variant in range(self.variants)]
            inputs = _augmented(clip, rngs, augmentation, processor)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.half):
                encoded = model.encode(**{name: value.to(model.device) for name, value in inputs.items()})
            features = {"audio": encoded.audio, "video": encoded.video}
            tensors = {
                name: side.frames.cpu().half().contiguous() for name, side in features.items() if side is not None
            }
            if not all(torch.isfinite(frames).all() for frames in tensors.values()):
                raise MomeError(f"the encoder features of {row.path} are not finite in float16: use data.cache=clips")
            file = self.file(clips.file(row))
            save_tensors(tensors, file, {_CHECKSUM: _checksum(tensors)})
            yield row, None

    def load(self, clip_file: Path, variant: int) -> dict[str, Tensor]:
        """Load the ``audio`` and ``video`` frames ``(T, D)`` float32 of a variant.

        Raises:
            MomeError: the file was damaged after :meth:`prepare`.
        """
        file = self.file(clip_file)
        try:
            loaded = {name: frames[variant].float() for name, frames in load_file(file).items()}
            if not all(torch.isfinite(frames).all() for frames in loaded.values()):
                raise ValueError("frames that are not finite")
            return loaded
        except (SafetensorError, OSError, ValueError) as error:
            raise MomeError(f"{file} is missing or damaged: resume the run, which encodes the clip again") from error

    def _is_intact(self, file: Path) -> bool:
        """Whether a file exists and holds what was written."""
        if not file.exists():
            return False
        try:
            with safe_open(file, "pt") as saved:
                tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
                checksum = (saved.metadata() or {}).get(_CHECKSUM)
        except Exception:  # of any kind: a damaged header can ask for anything
            tensors, checksum = {}, None
        intact = bool(tensors) and tensors.keys() <= {"audio", "video"} and all(map(self._is_valid, tensors.values()))
        intact = intact and checksum == _checksum(tensors)
        if not intact:
            logger.warning("%s is damaged: encoding the clip again", file)
        return intact

    def _is_valid(self, frames: Tensor) -> bool:
        shaped = frames.dtype == torch.float16 and frames.dim() == 3 and len(frames) == self.variants
        return shaped and bool(torch.isfinite(frames).all())


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"


def _augmented(
    clip: Clip, rngs: Sequence[np.random.Generator], augmentation: Augmentation, processor: MomeProcessor
) -> dict[str, Tensor]:
    """The encoders' inputs of a batch of augmented variants of a clip, one for each generator."""
    inputs: dict[str, Tensor] = {}
    if clip.audio is not None:
        inputs |= processor.pad_audio([augmented_audio(clip.audio, augmentation, rng, processor) for rng in rngs])
    if clip.mouth is not None:
        inputs |= processor.pad_video([augmented_video(clip.mouth, augmentation, rng, processor) for rng in rngs])
    return inputs


def augmented_audio(
    audio: np.ndarray, augmentation: Augmentation, rng: np.random.Generator, processor: MomeProcessor
) -> tuple[np.ndarray, int]:
    """Augment a waveform and compute the audio encoder's inputs, see :meth:`MomeProcessor.audio`."""
    return processor.audio(augmentation.audio(audio, rng))


def augmented_video(
    mouth: np.ndarray, augmentation: Augmentation, rng: np.random.Generator, processor: MomeProcessor
) -> np.ndarray:
    """Augment mouth crops ``(T, 96, 96)`` uint8 and normalise them, see :meth:`MomeProcessor.video`."""
    offset, flip = augmentation.video_geometry(rng)
    return augmentation.mask_video(processor.video(mouth, offset, flip), rng)


def pad_features(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad frames ``(T_i, D)`` with zeros to ``(B, T, D)``; returns them with their lengths ``(B,)`` int64."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.tensor([len(row) for row in rows])
