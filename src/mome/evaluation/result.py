"""What is evaluated or scored, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mome.evaluation.normalizers import Normalizer, normalizer
from mome.rates import Rates, Task
from mome.text.wer import WordErrors, bootstrap_interval, word_errors


@dataclass(frozen=True)
class Condition:
    """Rates, which imply the task, and the signal-to-noise ratio in dB; ``None`` is without added noise."""

    rates: Rates
    snr_db: float | None = None

    @property
    def task(self) -> Task:
        """``avsr``, ``asr`` or ``vsr``."""
        return self.rates.task

    def to_json(self) -> dict[str, Any]:
        """Task, rates and ratio as they stand in results."""
        return {"task": self.task, "rates": str(self.rates), "snr_db": self.snr_db}


@dataclass(frozen=True)
class Group:
    """Transcripts that a system made elsewhere; what it does not say is ``None``, the ratio also for clean speech."""

    system: str
    task: Task | None = None
    rates: Rates | None = None
    snr_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        """System, task, rates and ratio as they stand in results."""
        rates = None if self.rates is None else str(self.rates)
        return {"system": self.system, "task": self.task, "rates": rates, "snr_db": self.snr_db}

    def __str__(self) -> str:
        snr = None if self.snr_db is None else f"{self.snr_db:g} dB"
        return " ".join(str(part) for part in (self.system, self.task, self.rates, snr) if part is not None)


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
class Heard:
    """What was said in a clip, and what was understood."""

    id: str
    reference: str
    text: str


@dataclass(frozen=True)
class Result:
    """Outcome of one condition over a set of clips; figures that are not known are ``None``.

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
        heard: the transcripts behind the figures; they stay out of :meth:`to_json`.
    """

    condition: Condition | Group
    errors: WordErrors
    clips: int
    wer: float | None
    ci95: tuple[float, float] | None
    tokens_mean: float | None
    tflops_mean: float | None
    rtf: float | None
    failures: tuple[Failure, ...]
    heard: tuple[Heard, ...] = ()

    @classmethod
    def of(
        cls,
        condition: Condition | Group,
        heard: Sequence[Heard],
        seed: int,
        *,
        normalize: Normalizer = "lower",
        failures: Sequence[Failure] = (),
        tokens_mean: float | None = None,
        tflops_mean: float | None = None,
        rtf: float | None = None,
    ) -> Result:
        """Score transcripts in the form that ``normalize`` names; the seed is the interval's."""
        counts = word_errors([one.reference for one in heard], [one.text for one in heard], normalizer(normalize))
        total = sum(counts, WordErrors())
        wer = ci95 = None
        if counts:
            wer, ci95 = total.wer, bootstrap_interval([c.errors for c in counts], [c.words for c in counts], seed)
        costs = (tokens_mean, tflops_mean, rtf)
        return cls(condition, total, len(counts), wer, ci95, *costs, tuple(failures), tuple(heard))

    def to_json(self) -> dict[str, Any]:
        """The result as plain dictionaries, lists, strings and numbers."""
        return {
            **self.condition.to_json(),
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
