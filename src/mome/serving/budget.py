"""Rates chosen by the length of the queue."""

from __future__ import annotations

from collections.abc import Sequence

from mome.rates import Rates

_TRUST = 0.3  # of a full batch, in the place of what was known before


class Budget:
    """What speech costs at each rate, as measured, and the finest rate that the queue allows.

    Args:
        seconds: that the model may need for all that waits.
        costs: seconds of the model for a second of speech, by rates, as far as they are known.
    """

    def __init__(self, seconds: float, costs: dict[Rates, float]):
        self.seconds, self.costs = seconds, dict(costs)

    def choose(self, rates: Sequence[Rates], waiting: float) -> Rates:
        """The first of the rates at which ``waiting`` seconds of speech are within the budget, or the cheapest.

        A rate that was never used counts as free, so that it is tried.
        """
        for each in rates:
            if self.costs.get(each, 0.0) * waiting <= self.seconds:
                return each
        return min(rates, key=self.costs.__getitem__)

    def learn(self, rates: Sequence[Rates], speech: float, took: float, fullness: float) -> None:
        """Note what a batch cost.

        Args:
            rates: of its parts; nothing is learnt from a mixture.
            speech: seconds of its parts together.
            took: seconds of the model.
            fullness: its parts over those of the largest batch; a part alone costs more than one among others.
        """
        if len(set(rates)) != 1 or speech <= 0:
            return
        cost, weight = took / speech, _TRUST * fullness
        before = self.costs.get(rates[0], cost)
        self.costs[rates[0]] = before + weight * (cost - before)

    def wait(self, waiting: float) -> float:
        """Seconds until ``waiting`` seconds of speech are done, at the dearest rate in use; at least 1."""
        return max(1.0, waiting * max(self.costs.values(), default=0.0))
