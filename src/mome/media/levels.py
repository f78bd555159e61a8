"""Mixing the channels of a file to one, with remedies for channels that cancel and for single wild samples.

Whether a remedy is needed is known only at the end of the file. That is rare; the file is then decoded once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

# Channels cancel if their mean keeps less than this share of the power that the mean of unrelated channels has. Speech
# in opposite phase keeps almost none.
_CANCELLED = 0.5
# They also cancel if this share of the power, _PART, is in blocks that each keep less than _LOST.
_LOST, _PART = 0.1, 0.05
# Films have their speech in the centre channel; it is used if it has this share of the loudest channel's power.
_CENTRE = 0.1
# Powers are those of the difference over a millisecond, which leaves out what is below the voice, such as mains hum.
_LAG = 0.001
# Seconds in a block.
_BLOCK = 0.5
# The level of a block is this quantile of its absolute samples, so that wild samples do not count.
_LEVEL = 0.98
# Samples are wild above _CREST times the level of the loudest block, but never below _LEAST times full scale.
_CREST, _LEAST = 8.0, 4.0


@dataclass(frozen=True)
class Remedy:
    """How to mix channels: the mean of all, or ``channel`` alone; samples above ``ceiling`` become silence."""

    channel: int | None = None
    ceiling: float = inf


class Levels:
    """Mixes channels with a remedy, and finds out whether another remedy is needed."""

    def __init__(self, remedy: Remedy):
        self.remedy = remedy
        self.removed = 0
        self.powers: np.ndarray | None = None
        self.mixed = self.lost = 0.0
        """Power of the mean of the channels, and power of all channels in blocks where they cancel."""
        self.before = (0.0, 0.0)
        """Powers of all channels and of their mean at the start of the block."""
        self.centre: int | None = None
        self.peak = self.level = 0.0
        """Of the loudest sample, and of the loudest block."""
        self.block: list[np.ndarray] = []
        self.waiting = 0

    def mono(self, samples: np.ndarray, rate: int, centre: int | None) -> np.ndarray:
        """Mix ``(channels, samples)`` float32 to ``(samples,)`` float32.

        Args:
            samples: full scale is 1; values that are not finite become silence.
            rate: sample rate in Hz.
            centre: index of the centre channel, if there is one.
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
        """The remedy that the sound so far calls for."""
        if self.waiting and not self.level:  # shorter than a block, or silent so far
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
        """What the remedy changed, one clause each."""
        notes = []
        if self.removed:
            what = "sample is" if self.removed == 1 else "samples are"
            notes.append(f"{self.removed} {what} not finite or far louder than the rest, and set to silence")
        if self.remedy.channel is not None:
            notes.append(f"the channels of the sound cancel each other, so only channel {self.remedy.channel} is used")
        return notes


def _power(waves: np.ndarray, lag: int) -> np.ndarray:
    """Sum of the squared differences over ``lag`` samples, along the last axis."""
    power: np.ndarray = np.square(waves[..., lag:] - waves[..., :-lag], dtype=np.float64).sum(axis=-1)
    return power
