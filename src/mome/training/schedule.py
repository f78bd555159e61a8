"""Which rates a training step goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mome.rates import Rates


@dataclass(frozen=True)
class RateSchedule:
    """The rates of every step: a function of seed and step alone, the same on every process.

    Attributes:
        rates: the rates to train.
        seed: of the draws.
        count: how many of them a step takes, drawn without repetition (MQT: one); ``None`` for all, as in
            Matryoshka training.
        one_per_task: instead, draw one audio and one video rate, and take all rates made of these two: each task
            once, with the same tokens (Omni-AVSR).
        up_to: instead, draw one audio and one video rate from 1 to this, whole or not, so that the *number of tokens*
            is uniform, and go through each of the rates' tasks with them (as MQT draws the number of its queries).
    """

    rates: Sequence[Rates]
    seed: int
    count: int | None = None
    one_per_task: bool = False
    up_to: int | None = None

    def __call__(self, step: int) -> list[Rates]:
        """The rates of step ``step``, in the order of all rates."""
        rng = np.random.default_rng((self.seed, step, 1))
        if self.up_to is not None:
            pair = Rates(*(1 / share for share in rng.uniform(1 / self.up_to, 1, 2)))
            return [pair.for_task(task) for task in dict.fromkeys(rates.task for rates in self.rates)]
        if self.one_per_task:
            audio, video = (
                values[int(rng.integers(len(values)))] if values else None
                for values in (self._values("audio"), self._values("video"))
            )
            return [rates for rates in self.rates if rates.audio in (None, audio) and rates.video in (None, video)]
        if self.count is None or self.count >= len(self.rates):
            return list(self.rates)
        return [self.rates[i] for i in sorted(rng.choice(len(self.rates), self.count, replace=False))]

    def bounds(self) -> list[Rates]:
        """Rates among which are the finest that a step can have."""
        if self.up_to is None:
            return list(self.rates)
        return [Rates(1, 1).for_task(task) for task in dict.fromkeys(rates.task for rates in self.rates)]

    def _values(self, modality: str) -> list[int]:
        return sorted({value for rates in self.rates if (value := getattr(rates, modality)) is not None})
