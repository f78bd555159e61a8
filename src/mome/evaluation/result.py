"""Conditions of an evaluation, its results, and their files: JSON and CSV."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mome.data.tables import table_text
from mome.evaluation.normalizers import Normalizer, normalizer
from mome.files import disk_errors, write_text
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
class Hypothesis:
    """The transcript of a clip: its id, the reference, and the recognised text."""

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
        hypotheses: the transcripts behind the figures; they stay out of :meth:`to_json`.
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
    hypotheses: tuple[Hypothesis, ...] = ()

    @classmethod
    def of(
        cls,
        condition: Condition | Group,
        hypotheses: Sequence[Hypothesis],
        seed: int,
        *,
        normalize: Normalizer = "lower",
        failures: Sequence[Failure] = (),
        tokens_mean: float | None = None,
        tflops_mean: float | None = None,
        rtf: float | None = None,
    ) -> Result:
        """Score transcripts in the form that ``normalize`` names; the seed is the interval's."""
        references, texts = [item.reference for item in hypotheses], [item.text for item in hypotheses]
        counts = word_errors(references, texts, normalizer(normalize))
        total = sum(counts, WordErrors())
        wer = ci95 = None
        if counts:
            wer, ci95 = total.wer, bootstrap_interval([c.errors for c in counts], [c.words for c in counts], seed)
        costs = (tokens_mean, tflops_mean, rtf)
        return cls(condition, total, len(counts), wer, ci95, *costs, tuple(failures), tuple(hypotheses))

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


def run_document(*, command: str, model: str | None, data: str, seed: int) -> dict[str, Any]:
    """What is needed to repeat a run: the arguments, and the versions of what ran; see :func:`results_document`."""
    versions = {name: version(name) for name in ("mome", "torch", "transformers")}
    return {
        "command": command,
        "versions": {**versions, "python": platform.python_version()},
        "model": model,
        "data": data,
        "seed": seed,
    }


def results_document(
    results: Sequence[Result],
    *,
    command: str,
    model: str | None,
    data: str,
    seed: int,
    normalize: Normalizer = "lower",
    interrupted: bool = False,
) -> dict[str, Any]:
    """The results with everything that is needed to repeat the run.

    Args:
        results: the outcomes.
        command: the command line.
        model: folder or hub id; ``None`` for transcripts made elsewhere.
        data: the manifest.
        seed: of noise and intervals.
        normalize: the form in which transcripts were compared.
        interrupted: whether clips are missing because the run was stopped.
    """
    return {
        **run_document(command=command, model=model, data=data, seed=seed),
        "normalize": normalize,
        "interrupted": interrupted,
        "results": [result.to_json() for result in results],
    }


def write_json(path: str | Path, document: dict[str, Any]) -> None:
    """Write a document whole or not at all, its folder made if missing.

    Raises:
        MomeError: the file cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_csv(results: Sequence[Result]) -> str:
    """The transcripts behind results, one line for each clip and condition; :mod:`mome.evaluation.score` reads it."""
    rows = []
    for result in results:
        snr = "" if result.condition.snr_db is None else f"{result.condition.snr_db:g}"
        where = (result.condition.task, str(result.condition.rates), snr)
        rows += [(item.id, *where, item.reference, item.text) for item in result.hypotheses]
    return table_text(("id", "task", "rates", "snr_db", "reference", "text"), rows)
