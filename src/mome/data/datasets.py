"""Training examples: encoder inputs or stored encoder features with transcripts, padded to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Required, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mome.data.augmentation import Augmentation
from mome.data.clips import ClipStore
from mome.data.features import FeatureStore, augmented_audio, augmented_video, pad_features
from mome.data.manifests import ManifestRow
from mome.data.sampling import Example
from mome.errors import MomeError, in_one_line
from mome.model.objective import IGNORED_LABEL
from mome.model.processor import MomeProcessor
from mome.text.transcript import normalize


class Item(TypedDict, total=False):
    """One training example: a clip's place among the rows, its text, and either features or encoder inputs.

    ``rng`` draws what chance does to the transcript; ``lost`` says which clips of the batch cannot be read, by place,
    and why.
    """

    clip: Required[int]
    text: Required[str]
    rng: Required[np.random.Generator]
    lost: dict[int, str]
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
        skipped: places of clips that are left out of their batches, because they cannot be read.
    """

    rows: Sequence[ManifestRow]
    clips: ClipStore
    processor: MomeProcessor
    augmentation: Augmentation
    seed: int
    features: FeatureStore | None = None
    skipped: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def frames(self) -> list[int]:
        """Video frames (25 a second) of each clip, which must be stored; 0 of a clip that is not to be trained on."""
        return [self.clips.frames(row) for row in self.rows]

    def __getitems__(self, examples: Sequence[Example]) -> list[Item]:
        """The examples of a batch, without those that cannot be read; if none can, the shortest clip instead.

        Raises:
            MomeError: no clip can be read.
        """
        lost: dict[int, str] = {}
        items = [item for example in examples if (item := self._readable(example, lost)) is not None]
        if not items:
            places = np.argsort(self.frames, kind="stable").tolist()
            shortest = ((place, examples[0][1]) for place in places if self.frames[place])
            items = list(islice(filter(None, (self._readable(example, lost) for example in shortest)), 1))
        if not items:
            raise MomeError(f"no training clip can be read: {next(iter(lost.values()), 'all were skipped before')}")
        if lost:
            items[0]["lost"] = lost
        return items

    def _readable(self, example: Example, lost: dict[int, str]) -> Item | None:
        """An example; ``None`` if its clip is skipped, or cannot be read, which ``lost`` gets to know."""
        if example[0] in self.skipped or example[0] in lost:
            return None
        try:
            return self[example]
        except (MomeError, OSError) as error:
            lost[example[0]] = in_one_line(error)
            return None

    def __getitem__(self, example: Example) -> Item:
        index, epoch = example
        row = self.rows[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        item: Item = {"clip": index, "text": row.text, "rng": rng}
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

    def collate(self, items: list[Item]) -> dict[str, Any]:
        """Pad examples to a batch.

        Returns:
            ``labels (B, S)`` int64 of the normalised transcripts, ``words (B,)`` and ``clips (B,)`` int64 (number of
            words, place among the rows), and either the processor's tensors or, from stored features,
            ``audio_frames (B, T, D)`` with ``audio_lengths (B,)``, and the same for video; with token noise
            ``read (B, S)``; and ``lost`` of the items if any.
        """
        texts = [normalize(item["text"]) for item in items]
        words = torch.tensor([len(text.split()) for text in texts])
        batch: dict[str, Any] = {"labels": self.processor.labels(texts), "words": words}
        batch["clips"] = torch.tensor([item["clip"] for item in items])
        if self.augmentation.token_noise:
            lengths = (batch["labels"] != IGNORED_LABEL).sum(1).tolist()
            batch["read"] = self.augmentation.misread(batch["labels"], lengths, [item["rng"] for item in items])
        if lost := [item["lost"] for item in items if "lost" in item]:
            batch["lost"] = lost[0]
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
