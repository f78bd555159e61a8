"""Which rates a training step goes through, and with how many active experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mome.rates import Rates


@dataclass(frozen=True)
class RateSchedule:
    """The rates of every step, a function of seed and step alone, so all processes get the same.

    Attributes:
        rates: the rates to train.
        seed: seed of the draws.
        count: number of rates in a step, drawn without replacement; ``None`` for all, as in Matryoshka training.
        one_per_task: instead, draw one audio and one video rate and use each task's rates made of these
            (Omni-AVSR).
        up_to: instead, draw one real-valued audio and video rate from 1 to this for all tasks, such that the *number
            of tokens* is uniform (MQT draws its number of queries so).
    """

    rates: Sequence[Rates]
    seed: int
    count: int | None = None
    one_per_task: bool = False
    up_to: int | None = None

    def __call__(self, step: int) -> list[Rates]:
        """The rates of a step, in the order of :attr:`rates`."""
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
        """Rates that include the finest ones of any step."""
        if self.up_to is None:
            return list(self.rates)
        return [Rates(1, 1).for_task(task) for task in dict.fromkeys(rates.task for rates in self.rates)]

    def _values(self, modality: str) -> list[int]:
        return sorted({value for rates in self.rates if (value := getattr(rates, modality)) is not None})


@dataclass(frozen=True)
class TopKSchedule:
    """The number of active routed experts in every step, a function of seed and step alone.

    Training with drawn numbers is for a model whose number is chosen at inference, as its rates are.

    Attributes:
        values: the numbers to draw from, all with the same probability; ``None`` for that of the adapter in all steps.
        seed: seed of the draws.
    """

    values: Sequence[int] | None
    seed: int

    def __call__(self, step: int) -> int | None:
        """The number of a step, the same at all its rates."""
        if self.values is None:
            return None
        return self.values[int(np.random.default_rng((self.seed, step, 2)).integers(len(self.values)))]
