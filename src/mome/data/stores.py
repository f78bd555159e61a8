"""Clips and encoder tokens kept on disk, so that every epoch but the first starts at once."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mome.adapters.files import save_tensors
from mome.clip import FRAME_RATE, MOUTH_SIZE, Clip, length
from mome.data.augmentation import Augmentation
from mome.data.manifests import ManifestRow
from mome.errors import MomeError, shortened
from mome.files import atomic_write, disk_errors
from mome.media import load_clip
from mome.media.face import FaceDetector
from mome.model.model import EncodedClips, MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
_Job = tuple[Path, Path, bool, bool, float | None, float | None]
"""A file, where its clip goes, and as in :class:`ClipStore`."""

_CHECKSUM = "crc32"  # the key in a token file's metadata


def _digest(*parts: object) -> str:
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=10).hexdigest()


class ClipStore:
    """Sound and cropped mouth of every clip of a manifest, made once.

    Args:
        folder: where the files go; safe to delete, and shared by runs.
        audio, video: which modalities to keep; a clip that lacks one is refused.
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
        """The file of one clip; its name changes with the media file's size and time."""
        stat = row.path.stat()
        key = _digest(row.path.resolve(), stat.st_size, stat.st_mtime_ns, self.audio, self.video)
        return self.folder / f"{key}.npz"

    def prepare(self, rows: Sequence[ManifestRow], workers: int, progress: Progress) -> None:
        """Load and store the clips that are not stored yet; after an interruption, call it again.

        Raises:
            MomeError: a clip cannot be read or lacks a modality.
        """
        _make(self.folder)
        jobs = [self._job(row) for row in rows]
        jobs = [job for job in jobs if not job[1].exists()]
        for done, warnings in enumerate(self._run(jobs, workers), start=1):
            _tell(warnings)
            progress("reading clips", done, len(jobs))

    def _job(self, row: ManifestRow) -> _Job:
        return row.path, self.file(row), self.audio, self.video, *self.limits

    @staticmethod
    def _run(jobs: list[_Job], workers: int) -> Iterator[tuple[str, ...]]:
        if workers < 2:
            yield from map(_store_clip, jobs)
            return
        # Spawned: a fork of a process in which PyTorch or OpenCV has threads can wait for ever.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            with _left_to_us(signal.SIGINT):
                stored = pool.map(_store_clip, jobs)
            yield from stored

    def load(self, row: ManifestRow) -> Clip:
        """Read a stored clip; a file that is missing or damaged is written again.

        Raises:
            MomeError: the clip cannot be read again.
        """
        file = self.file(row)
        try:
            audio, mouth = self._read(file)
        except Exception as error:  # of whatever kind: NumPy and zipfile have many for a file that is not whole
            logger.warning("%s is missing or damaged (%s): made anew", file, shortened(error))
            _make(self.folder)
            _tell(_store_clip(self._job(row)))
            audio, mouth = self._read(file)
        return Clip(audio, mouth, length(audio, mouth), row.path)

    def _read(self, file: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
        with np.load(file, allow_pickle=False) as saved:
            audio = saved["audio"] if self.audio else None
            mouth = saved["mouth"] if self.video else None
        for array, dtype, sizes in ((audio, np.float32, ()), (mouth, np.uint8, (MOUTH_SIZE, MOUTH_SIZE))):
            if array is not None and (array.dtype != dtype or array.shape[1:] != sizes or not array.size):
                raise ValueError("another content")
        if audio is not None and not np.isfinite(audio).all():
            raise ValueError("samples that are no numbers")
        return audio, mouth

    def get(self, row: ManifestRow) -> Clip:
        """Read a clip, and store it first if it is not stored yet.

        Raises:
            MomeError: the clip cannot be read or lacks a modality.
        """
        target = self.file(row)
        if not target.exists():
            _make(self.folder)
            _tell(_store_clip(self._job(row)))
        return self.load(row)

    def frames(self, row: ManifestRow) -> int:
        """Length of a stored clip in video frames, 25 a second."""
        clip = self.load(row)
        return max(1, round(clip.seconds * FRAME_RATE))


@contextmanager
def _left_to_us(number: signal.Signals) -> Iterator[None]:
    """Processes started here ignore a signal that goes to all, such as Ctrl-C: this process ends them in order."""
    if threading.current_thread() is not threading.main_thread():  # others may not set signals
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@cache
def _detector() -> FaceDetector:
    """One for all clips of a process."""
    return FaceDetector()


def _tell(warnings: tuple[str, ...]) -> None:
    for line in warnings:
        logger.warning("%s", line)


def _store_clip(job: _Job) -> tuple[str, ...]:
    """Store a clip; returns its warnings, which only the process that asked can show."""
    source, target, audio, video, longest, longest_video = job
    clip = load_clip(
        source, audio=audio, video=video, longest=longest, longest_video=longest_video, detector=_detector()
    )
    for wanted, value, name in ((audio, clip.audio, "sound"), (video, clip.mouth, "visible mouth")):
        if wanted and value is None:
            raise MomeError(f"{source} has no {name}: take it out of the manifest or train another task")
    arrays = {"audio": clip.audio, "mouth": clip.mouth}
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: value for key, value in arrays.items() if value is not None})
    return clip.warnings


def _make(folder: Path) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def fingerprint(*modules: nn.Module | None) -> str:
    """Digest of the modules' weights; it tells tokens of different encoders apart."""
    digest = hashlib.blake2b(digest_size=10)
    for module in modules:
        for name, value in () if module is None else module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class TokenStore:
    """Encoder tokens of differently augmented variants of every clip, computed once by the frozen encoders.

    Args:
        folder: where the files go.
        variants: number of augmented versions of each clip.
        key: everything else that the tokens depend on (encoders, augmentation).
        seed: of the augmentation.
    """

    def __init__(self, folder: Path, variants: int, key: object, seed: int):
        self.folder, self.variants, self.key, self.seed = folder, variants, key, seed

    def file(self, clip_file: Path) -> Path:
        """The file that holds all variants of one stored clip."""
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
        """Encode and store the variants that are not stored yet or whose file is damaged.

        Raises:
            MomeError: a clip cannot be read, or its tokens are too large for float16.
        """
        _make(self.folder)
        todo = [row for row in rows if not self._is_whole(self.file(clips.file(row)))]
        for done, row in enumerate(todo, start=1):
            clip, tensors = clips.load(row), {}
            rngs = [np.random.default_rng((self.seed, variant, *row.id.encode())) for variant in range(self.variants)]
            for name, tokens in _encode_variants(clip, rngs, augmentation, model, processor).items():
                tensors[name] = tokens.half().contiguous()
            if not all(torch.isfinite(tokens).all() for tokens in tensors.values()):
                raise MomeError(f"the encoders' tokens of {row.path} are not finite in float16: use data.cache=clips")
            file = self.file(clips.file(row))
            save_tensors(tensors, file, {_CHECKSUM: _checksum(tensors)})
            progress("encoding clips", done, len(todo))

    def load(self, clip_file: Path, variant: int) -> dict[str, Tensor]:
        """``audio`` and ``video`` tokens ``(T, D)`` float32 of one variant.

        Raises:
            MomeError: the file was damaged after :meth:`prepare`.
        """
        file = self.file(clip_file)
        try:
            loaded = {name: tokens[variant].float() for name, tokens in load_file(file).items()}
            if not all(torch.isfinite(tokens).all() for tokens in loaded.values()):
                raise ValueError("tokens that are no numbers")
            return loaded
        except (SafetensorError, OSError, ValueError) as error:
            raise MomeError(f"{file} is missing or damaged: resume the run, which will make it anew") from error

    def _is_whole(self, file: Path) -> bool:
        """Whether a file is there and holds what was written."""
        if not file.exists():
            return False
        try:
            with safe_open(file, "pt") as saved:
                tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
                checksum = (saved.metadata() or {}).get(_CHECKSUM)
        except Exception:  # of whatever kind: a header that is damaged can ask for anything
            tensors, checksum = {}, None
        intact = bool(tensors) and tensors.keys() <= {"audio", "video"} and all(map(self._is_made, tensors.values()))
        intact = intact and checksum == _checksum(tensors)
        if not intact:
            logger.warning("%s is damaged: made anew", file)
        return intact

    def _is_made(self, tokens: Tensor) -> bool:
        shaped = tokens.dtype == torch.float16 and tokens.dim() == 3 and len(tokens) == self.variants
        return shaped and bool(torch.isfinite(tokens).all())


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"


def _encode_variants(
    clip: Clip,
    rngs: Sequence[np.random.Generator],
    augmentation: Augmentation,
    model: MomeForSpeechRecognition,
    processor: MomeProcessor,
) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    if clip.audio is not None:
        inputs |= processor.pad_audio([augmented_audio(clip.audio, augmentation, rng, processor) for rng in rngs])
    if clip.mouth is not None:
        inputs |= processor.pad_video([augmented_video(clip.mouth, augmentation, rng, processor) for rng in rngs])
    encoded: EncodedClips = model.encode(**{k: v.to(model.device) for k, v in inputs.items()})
    sides = {"audio": encoded.audio, "video": encoded.video}
    return {name: side.frames.cpu() for name, side in sides.items() if side is not None}


def augmented_audio(
    audio: np.ndarray, augmentation: Augmentation, rng: np.random.Generator, processor: MomeProcessor
) -> tuple[np.ndarray, int]:
    """What the audio encoder reads of a waveform after augmentation, and how many frames of it count."""
    return processor.audio(augmentation.audio(audio, rng))


def augmented_video(
    mouth: np.ndarray, augmentation: Augmentation, rng: np.random.Generator, processor: MomeProcessor
) -> np.ndarray:
    """Normalised frames of a mouth crop after augmentation."""
    offset, flip = augmentation.video_geometry(rng)
    return augmentation.mask_video(processor.video(mouth, offset, flip), rng)


def pad_tokens(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``(T_i, D)`` tokens to ``(B, T, D)`` and their lengths ``(B,)``."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.tensor([len(row) for row in rows])
