"""Encoder features of clips kept on disk, so that later epochs and runs need not compute them again."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mome.adapters.files import save_tensors
from mome.clip import Clip
from mome.data.augmentation import Augmentation
from mome.data.clips import ClipStore, Progress, file_name
from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.files import disk_errors
from mome.media.face import DetectorError
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

logger = logging.getLogger(__name__)

_CHECKSUM = "crc32"  # key in the metadata of a feature file


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
        return self.folder / f"{file_name(clip_file.name, self.variants, self.seed, self.key)}.safetensors"

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
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
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
