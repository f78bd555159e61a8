"""Batches of clips of similar length, limited by their total number of video frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from mome.errors import MomeError, listed

Example = tuple[int, int]
"""Index of a clip, and the epoch, which DataLoader workers would not know otherwise."""


class FrameBudgetSampler(Sampler[list[Example]]):
    """Yields batches of examples whose padded size stays within a budget of video frames.

    In each epoch, clips are sorted by length, equal lengths in a new random order, batches are filled greedily, and
    the batches are shuffled. The order depends on the seed and the epoch only, so that a resumed run is the same as
    an uninterrupted one. All epochs have the same number of batches.

    Args:
        lengths: video frames (25 a second) of each clip; 0 for a clip to leave out.
        max_frames: the most frames in a batch, with padding.
        seed: seed of the order.
        names: of the clips, for messages; by default their numbers, from 0.

    Raises:
        MomeError: there are no clips, or a clip exceeds the budget.
    """

    def __init__(self, lengths: Sequence[int], max_frames: int, seed: int = 0, names: Sequence[str] = ()):
        self.lengths = np.asarray(lengths)
        self.max_frames = max_frames
        self.seed = seed
        self.epoch = 0
        if not self.lengths.any():
            raise MomeError("there are no clips to train on")
        if int(self.lengths.max()) > max_frames:
            order = np.argsort(-self.lengths, kind="stable")[: (self.lengths > max_frames).sum()].tolist()
            raise MomeError(
                f"the longest training clip has {self.lengths.max()} frames, more than data.max_frames={max_frames}: "
                f"raise it, or take out of the manifest {listed([names[place] if names else place for place in order])}"
            )
        self._size = len(self._batches(0))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the Trainer calls this at the start of every epoch."""
        self.epoch = epoch

    def _batches(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, epoch))
        kept = np.flatnonzero(self.lengths)
        order = kept[np.lexsort((rng.random(len(kept)), -self.lengths[kept]))]
        batches: list[list[int]] = []
        for index in order.tolist():
            # The first clip of a batch is its longest.
            if batches and (len(batches[-1]) + 1) * self.lengths[batches[-1][0]] <= self.max_frames:
                batches[-1].append(index)
            else:
                batches.append([index])
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[Example]]:
        for batch in self._batches(self.epoch):
            yield [(index, self.epoch) for index in batch]

    def __len__(self) -> int:
        return self._size
