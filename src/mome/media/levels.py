"""Channels to one, and what must not go wrong at that: channels that cancel, and single samples gone wild.

A remedy can only be known once all of a file has been heard, and is rarely needed: the file is then decoded again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np

# The mean of channels that have nothing to do with one another keeps this power, taken as 1; less than half of it is
# left where they cancel, of speech in opposite phase next to nothing.
_CANCELLED = 0.5
# The centre is where films have their speech, if there is a tenth of the loudest channel's power in it.
_CENTRE = 0.1
# What counts is the difference over a millisecond: it leaves out what is below the voice, such as mains hum.
_LAG = 0.001
# Samples above full scale are errors if no more than a thousandth of all, and eight times as loud as any other.
_FEW, _OCTAVES = 1 / 1000, 3


@dataclass(frozen=True)
class Remedy:
    """How channels are made one: the mean of all or ``channel`` alone, of samples not above ``ceiling``."""

    channel: int | None = None
    ceiling: float = inf


class Levels:
    """Makes one channel of several by a remedy, and finds out whether another is needed."""

    def __init__(self, remedy: Remedy):
        self.remedy = remedy
        self.samples = self.removed = 0
        self.powers: np.ndarray | None = None
        self.mixed = 0.0
        self.centre: int | None = None
        self.loudest = 0.0
        self.octaves = np.zeros(130, np.int64)
        """Samples above full scale, by the power of two that is next above them."""

    def mono(self, samples: np.ndarray, rate: int, centre: int | None) -> np.ndarray:
        """(channels, samples) float32 → (samples,) float32.

        Args:
            samples: full scale is 1; anything that is no number becomes silence.
            rate: in Hz.
            centre: the centre channel, if there is one.
        """
        samples = self._cleaned(samples)
        mix = samples.mean(axis=0, dtype=np.float32)
        if len(samples) > 1:
            self._compare(samples, mix, max(round(_LAG * rate), 1), centre)
        channel = self.remedy.channel
        return mix if channel is None or channel >= len(samples) else np.ascontiguousarray(samples[channel])

    def _cleaned(self, samples: np.ndarray) -> np.ndarray:
        self.samples += samples.size
        peak = float(np.abs(samples).max(initial=0))
        if peak <= 1:
            self.loudest = max(self.loudest, peak)
            return samples
        size = np.abs(samples)
        wild = ~np.isfinite(size) | (size > self.remedy.ceiling)
        self.removed += int(wild.sum())
        size[wild] = 0
        self.loudest = max(self.loudest, float(size.max(where=size <= 1, initial=0)))
        self.octaves += np.bincount(np.frexp(size[size > 1])[1], minlength=len(self.octaves))
        return np.where(wild, np.float32(0), samples) if wild.any() else samples

    def _compare(self, samples: np.ndarray, mix: np.ndarray, lag: int, centre: int | None) -> None:
        if self.powers is None:
            self.powers, self.centre = np.zeros(len(samples)), centre
        if len(samples) == len(self.powers):
            self.powers += _power(samples, lag)
            self.mixed += float(_power(mix, lag))

    def needed(self) -> Remedy:
        """The remedy that what has been heard calls for."""
        ceiling = self._ceiling()
        if ceiling < self.remedy.ceiling:
            return replace(self.remedy, ceiling=ceiling)
        if self.remedy.channel is None and self.powers is not None and self._cancelled(self.powers):
            return replace(self.remedy, channel=self._voice(self.powers))
        return self.remedy

    def _ceiling(self) -> float:
        """The level above which samples stand out from all others; infinite if none do."""
        occupied = [int(np.frexp(self.loudest)[1]), *np.flatnonzero(self.octaves).tolist()]
        for low, high in pairwise(occupied):
            if high - low > _OCTAVES and self.octaves[high:].sum() <= max(_FEW * self.samples, 1):
                return 2.0 ** max(low, 0)
        return inf

    def _cancelled(self, powers: np.ndarray) -> bool:
        return self.mixed < _CANCELLED * powers.sum() / len(powers) ** 2

    def _voice(self, powers: np.ndarray) -> int:
        if self.centre is not None and powers[self.centre] >= _CENTRE * powers.max():
            return self.centre
        return int(powers.argmax())

    def notes(self) -> list[str]:
        """What the remedy did, a clause each."""
        notes = []
        if self.removed:
            what = "sample is" if self.removed == 1 else "samples are"
            notes.append(f"{self.removed} {what} no number or far louder than all else, taken as silence")
        if self.remedy.channel is not None:
            notes.append(f"the channels of the sound cancel each other, so only channel {self.remedy.channel} is used")
        return notes


def _power(waves: np.ndarray, lag: int) -> np.ndarray:
    """Sum of squares of the last axis, without what changes slowly."""
    return np.square(waves[..., lag:] - waves[..., :-lag], dtype=np.float64).sum(axis=-1)
