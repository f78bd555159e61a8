"""What is evaluated, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mome.rates import Rates, Task
from mome.text.wer import WordErrors


@dataclass(frozen=True)
class Condition:
    """Rates, which imply the task, and the signal-to-noise ratio in dB; ``None`` is without added noise."""

    rates: Rates
    snr_db: float | None = None

    @property
    def task(self) -> Task:
        """``avsr``, ``asr`` or ``vsr``."""
        return self.rates.task


def make_conditions(rates: Iterable[Rates], snrs: Iterable[float | None] = (None,)) -> list[Condition]:
    """Every rate at every signal-to-noise ratio in dB, each combination once, in the order given.

    Noise does not change what lips show, so VSR gives the same at every ratio; it is listed at each all the
    same, so that tables are complete.
    """
    ratios = list(snrs)
    pairs = ((rate, snr) for rate in rates for snr in ratios)
    return [Condition(*pair) for pair in dict.fromkeys(pairs)]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be transcribed, and why, in one line."""

    id: str
    error: str


@dataclass(frozen=True)
class Result:
    """Outcome of one condition over a set of clips.

    Attributes:
        condition: what was evaluated.
        errors: summed over the clips that were transcribed.
        clips: their number; where it is 0, all means and rates below are ``None``.
        wer: pooled word error rate, a fraction.
        ci95: its 95 % interval over resampled clips.
        tokens_mean: language-model tokens fed per clip.
        tflops_mean: 10^12 operations per clip.
        rtf: processing seconds (encoders and language model) per second of media.
        failures: clips left out of all of the above.
    """

    condition: Condition
    errors: WordErrors
    clips: int
    wer: float | None
    ci95: tuple[float, float] | None
    tokens_mean: float | None
    tflops_mean: float | None
    rtf: float | None
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as plain dictionaries, lists, strings and numbers."""
        return {
            "task": self.condition.task,
            "rates": str(self.condition.rates),
            "snr_db": self.condition.snr_db,
            "wer": self.wer,
            "words": self.errors.words,
            "clips": self.clips,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "tokens_mean": self.tokens_mean,
            "tflops_mean": self.tflops_mean,
            "rtf": self.rtf,
            "substitutions": self.errors.substitutions,
            "deletions": self.errors.deletions,
            "insertions": self.errors.insertions,
            "failures": [{"id": failure.id, "error": failure.error} for failure in self.failures],
        }
