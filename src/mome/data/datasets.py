"""Training examples: a manifest row to encoder inputs or cached tokens, and examples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mome.data.augmentation import Augmentation
from mome.data.manifests import ManifestRow
from mome.data.sampling import Example
from mome.data.stores import ClipStore, TokenStore, augmented_audio, augmented_video, pad_tokens
from mome.model.processor import MomeProcessor
from mome.text.transcript import normalize


@dataclass
class SpeechDataset(Dataset[dict[str, Any]]):
    """Clips with their transcripts, augmented differently in every epoch.

    What augmentation does to a clip depends on the seed, the epoch and the clip alone, so that runs can be
    resumed and repeated exactly.

    Attributes:
        rows: the clips.
        clips: the store that they are read from.
        processor: turns clips into encoder inputs.
        augmentation: the changes made to them.
        seed: of the augmentation.
        tokens: cached encoder tokens to use instead of the clips, or ``None``.
    """

    rows: Sequence[ManifestRow]
    clips: ClipStore
    processor: MomeProcessor
    augmentation: Augmentation
    seed: int
    tokens: TokenStore | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, example: Example) -> dict[str, Any]:
        index, epoch = example
        row = self.rows[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        if self.tokens is not None:
            variant = int(rng.integers(self.tokens.variants))
            return {"clip": index, "text": row.text, "tokens": self.tokens.load(self.clips.file(row), variant)}
        clip = self.clips.load(row)
        item: dict[str, Any] = {"clip": index, "text": row.text}
        if clip.audio is not None:
            item["audio"] = augmented_audio(clip.audio, self.augmentation, rng, self.processor)
        if clip.mouth is not None:
            item["video"] = augmented_video(clip.mouth, self.augmentation, rng, self.processor)
        return item

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad examples to a batch.

        Returns:
            ``labels (B, S)`` of the transcripts in the form in which they are scored, ``words (B,)``, ``clips (B,)``
            (int64, places among the rows) and either the processor's tensors or, from cached tokens,
            ``audio_tokens (B, T, D)`` with ``audio_lengths (B,)`` and the same for video.
        """
        texts = [normalize(item["text"]) for item in items]
        batch = {"labels": self.processor.labels(texts), "words": torch.tensor([len(text.split()) for text in texts])}
        batch["clips"] = torch.tensor([item["clip"] for item in items])
        if self.tokens is not None:
            for name in items[0]["tokens"]:
                padded, lengths = pad_tokens([item["tokens"][name] for item in items])
                batch |= {f"{name}_tokens": padded, f"{name}_lengths": lengths}
            return batch
        if "audio" in items[0]:
            batch |= self.processor.pad_audio([item["audio"] for item in items])
        if "video" in items[0]:
            batch |= self.processor.pad_video([item["video"] for item in items])
        return batch
