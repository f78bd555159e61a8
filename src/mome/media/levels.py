"""Channels to one, and what must not go wrong at that: channels that cancel, and single samples gone wild.

A remedy can only be known once all of a file has been heard, and is rarely needed: the file is then decoded again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

# The mean of channels that have nothing to do with one another keeps this power, taken as 1; less than half of it is
# left where they cancel, of speech in opposite phase next to nothing.
_CANCELLED = 0.5
# Channels may cancel in a part of the file only: in blocks that are left less than this and hold so much of the power.
_LOST, _PART = 0.1, 0.05
# The centre is where films have their speech, if there is a tenth of the loudest channel's power in it.
_CENTRE = 0.1
# What counts is the difference over a millisecond: it leaves out what is below the voice, such as mains hum.
_LAG = 0.001
# Seconds of sound that are judged at once.
_BLOCK = 0.5
# A block's level is what no more than so many of its samples exceed, such as those gone wild.
_LEVEL = 0.98
# Samples are wild above eight times the level of the loudest block, but not below four times full scale.
_CREST, _LEAST = 8.0, 4.0


@dataclass(frozen=True)
class Remedy:
    """How channels are made one: the mean of all or ``channel`` alone, of samples not above ``ceiling``."""

    channel: int | None = None
    ceiling: float = inf


class Levels:
    """Makes one channel of several by a remedy, and finds out whether another is needed."""

    def __init__(self, remedy: Remedy):
        self.remedy = remedy
        self.removed = 0
        self.powers: np.ndarray | None = None
        self.mixed = self.lost = 0.0
        """Power of the mean of the channels, and that of all channels in blocks where they cancel."""
        self.before = (0.0, 0.0)
        """Powers of all channels and of their mean when the block began."""
        self.centre: int | None = None
        self.peak = self.level = 0.0
        """Of the loudest sample, and of the loudest block."""
        self.block: list[np.ndarray] = []
        self.waiting = 0

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
        self.waiting += samples.shape[1]
        if self.waiting >= _BLOCK * rate:
            self._judge_level()
            self._judge_powers()
        channel = self.remedy.channel
        return mix if channel is None or channel >= len(samples) else np.ascontiguousarray(samples[channel])

    def _cleaned(self, samples: np.ndarray) -> np.ndarray:
        size = np.abs(samples)
        if not size.max(initial=0) <= 1:
            wild = ~np.isfinite(size) | (size > self.remedy.ceiling)
            if wild.any():
                self.removed += int(wild.sum())
                samples, size = np.where(wild, np.float32(0), samples), np.where(wild, np.float32(0), size)
        self.block.append(size.max(axis=0, initial=0))
        self.peak = max(self.peak, float(self.block[-1].max(initial=0)))
        return samples

    def _judge_level(self) -> None:
        sizes = np.concatenate(self.block)
        place = int(_LEVEL * (len(sizes) - 1))
        self.level = max(self.level, float(np.partition(sizes, place)[place]))
        self.block, self.waiting = [], 0

    def _judge_powers(self) -> None:
        if self.powers is not None:
            power, mixed = float(self.powers.sum()) - self.before[0], self.mixed - self.before[1]
            if mixed < _LOST * power / len(self.powers) ** 2:
                self.lost += power
            self.before = (float(self.powers.sum()), self.mixed)

    def _compare(self, samples: np.ndarray, mix: np.ndarray, lag: int, centre: int | None) -> None:
        if self.powers is None:
            self.powers, self.centre = np.zeros(len(samples)), centre
        if len(samples) == len(self.powers):
            self.powers += _power(samples, lag)
            self.mixed += float(_power(mix, lag))

    def needed(self) -> Remedy:
        """The remedy that what has been heard calls for."""
        if self.waiting and not self.level:  # shorter than a block, or silent until now
            self._judge_level()
        self._judge_powers()
        ceiling = max(_CREST * self.level, _LEAST)
        if self.peak > ceiling and self.remedy.ceiling == inf:
            return replace(self.remedy, ceiling=ceiling)
        if self.remedy.channel is None and self.powers is not None and self._cancelled(self.powers):
            return replace(self.remedy, channel=self._voice(self.powers))
        return self.remedy

    def _cancelled(self, powers: np.ndarray) -> bool:
        power = float(powers.sum())
        return self.mixed < _CANCELLED * power / len(powers) ** 2 or self.lost > _PART * power

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
