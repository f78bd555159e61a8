"""Training examples: encoder inputs or stored encoder features with transcripts, padded to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Required, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mome.data.augmentation import Augmentation
from mome.data.manifests import ManifestRow
from mome.data.sampling import Example
from mome.data.stores import ClipStore, FeatureStore, augmented_audio, augmented_video, pad_features
from mome.model.processor import MomeProcessor
from mome.text.transcript import normalize


class Item(TypedDict, total=False):
    """One training example: a clip's place among the rows, its text, and either features or encoder inputs."""

    clip: Required[int]
    text: Required[str]
    features: dict[str, Tensor]
    audio: tuple[np.ndarray, int]
    video: np.ndarray


@dataclass
class SpeechDataset(Dataset[Item]):
    """Clips with their transcripts, augmented differently in every epoch.

    The augmentation of a clip depends on the seed, the epoch and the clip only, so that runs can be resumed and
    repeated exactly.

    Attributes:
        rows: the clips.
        clips: the store that has them.
        processor: converts clips to encoder inputs.
        augmentation: the random changes to the clips.
        seed: seed of the augmentation.
        features: store of encoder features to use instead of the clips, or ``None``.
    """

    rows: Sequence[ManifestRow]
    clips: ClipStore
    processor: MomeProcessor
    augmentation: Augmentation
    seed: int
    features: FeatureStore | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def frames(self) -> list[int]:
        """Video frames (25 a second) of each clip, which must be stored."""
        return [self.clips.frames(row) for row in self.rows]

    def __getitem__(self, example: Example) -> Item:
        index, epoch = example
        row = self.rows[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        item: Item = {"clip": index, "text": row.text}
        if self.features is not None:
            variant = int(rng.integers(self.features.variants))
            loaded = self.features.load(self.clips.file(row), variant)
            item["features"] = {name: self.augmentation.features(frames, rng) for name, frames in loaded.items()}
            return item
        clip = self.clips.load(row)
        if clip.audio is not None:
            item["audio"] = augmented_audio(clip.audio, self.augmentation, rng, self.processor)
        if clip.mouth is not None:
            item["video"] = augmented_video(clip.mouth, self.augmentation, rng, self.processor)
        return item

    def collate(self, items: list[Item]) -> dict[str, Tensor]:
        """Pad examples to a batch.

        Returns:
            ``labels (B, S)`` int64 of the normalised transcripts, ``words (B,)`` and ``clips (B,)`` int64 (number of
            words, place among the rows), and either the processor's tensors or, from stored features,
            ``audio_frames (B, T, D)`` with ``audio_lengths (B,)``, and the same for video.
        """
        texts = [normalize(item["text"]) for item in items]
        batch = {"labels": self.processor.labels(texts), "words": torch.tensor([len(text.split()) for text in texts])}
        batch["clips"] = torch.tensor([item["clip"] for item in items])
        if self.features is not None:
            for name in items[0]["features"]:
                frames, lengths = pad_features([item["features"][name] for item in items])
                batch |= {f"{name}_frames": frames, f"{name}_lengths": lengths}
            return batch
        if "audio" in items[0]:
            batch |= self.processor.pad_audio([item["audio"] for item in items])
        if "video" in items[0]:
            batch |= self.processor.pad_video([item["video"] for item in items])
        return batch
