"""Conditions and results of an evaluation, and their files in JSON and CSV."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mome import __version__
from mome.data.tables import table_text
from mome.evaluation.normalizers import Normalizer, normalizer
from mome.files import disk_errors, write_text
from mome.rates import Rates, Task
from mome.text.transcript import Transcript
from mome.text.wer import WordErrors, bootstrap_interval, word_errors


@dataclass(frozen=True)
class Condition:
    """Rates, which imply the task, and a signal-to-noise ratio in dB, ``None`` for no added noise."""

    rates: Rates
    snr_db: float | None = None

    @property
    def task(self) -> Task:
        """``avsr``, ``asr`` or ``vsr``."""
        return self.rates.task

    def to_json(self) -> dict[str, Any]:
        """Task, rates and ratio for the files of results."""
        return {"task": self.task, "rates": str(self.rates), "snr_db": self.snr_db}


@dataclass(frozen=True)
class ExternalCondition:
    """The condition of transcripts that another system made; ``None`` if unknown, the ratio also for clean speech."""

    system: str
    task: Task | None = None
    rates: Rates | None = None
    snr_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        """System, task, rates and ratio for the files of results."""
        rates = None if self.rates is None else str(self.rates)
        return {"system": self.system, "task": self.task, "rates": rates, "snr_db": self.snr_db}

    def __str__(self) -> str:
        snr = None if self.snr_db is None else f"{self.snr_db:g} dB"
        return " ".join(str(part) for part in (self.system, self.task, self.rates, snr) if part is not None)


def make_conditions(rates: Iterable[Rates], snrs: Iterable[float | None] = (None,)) -> list[Condition]:
    """Combine all rates with all signal-to-noise ratios in dB, each combination once, in the order given.

    Noise does not affect VSR, which is listed at every ratio nevertheless, so that tables are complete.
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
    """The recognised text of a clip, with its id and reference."""

    id: str
    reference: str
    text: str


@dataclass(frozen=True)
class Result:
    """The result of one condition over a set of clips; figures that are not known are ``None``.

    Attributes:
        condition: the condition.
        errors: word errors, summed over the transcribed clips.
        clips: number of transcribed clips; if it is 0, the figures from ``wer`` to ``rtf`` are ``None``.
        wer: pooled word error rate, a fraction.
        ci95: 95 % bootstrap interval of ``wer`` over clips.
        tokens_mean: mean number of tokens that the language model reads for a clip.
        tflops_mean: mean operations for a clip, in units of 10^12.
        rtf: processing seconds (encoders and language model) per second of media.
        failures: clips left out of all figures.
        hypotheses: the recognised texts of the clips; not part of :meth:`to_json`.
        transcripts: what the model gave for each of them, with tokens, operations and seconds; empty for transcripts
            that another system made; not part of :meth:`to_json`.
    """

    condition: Condition | ExternalCondition
    errors: WordErrors
    clips: int
    wer: float | None
    ci95: tuple[float, float] | None
    tokens_mean: float | None
    tflops_mean: float | None
    rtf: float | None
    failures: tuple[Failure, ...]
    hypotheses: tuple[Hypothesis, ...] = ()
    transcripts: tuple[Transcript, ...] = ()

    @classmethod
    def of(
        cls,
        condition: Condition | ExternalCondition,
        hypotheses: Sequence[Hypothesis],
        seed: int,
        *,
        normalize: Normalizer = "lower",
        failures: Sequence[Failure] = (),
        tokens_mean: float | None = None,
        tflops_mean: float | None = None,
        rtf: float | None = None,
        transcripts: Sequence[Transcript] = (),
    ) -> Result:
        """Score transcripts in the form that ``normalize`` names; ``seed`` draws the interval's clips."""
        references, texts = [item.reference for item in hypotheses], [item.text for item in hypotheses]
        counts = word_errors(references, texts, normalizer(normalize))
        total = sum(counts, WordErrors())
        wer = ci95 = None
        if counts:
            wer, ci95 = total.wer, bootstrap_interval([c.errors for c in counts], [c.words for c in counts], seed)
        costs = (tokens_mean, tflops_mean, rtf)
        outcomes = (tuple(failures), tuple(hypotheses), tuple(transcripts))
        return cls(condition, total, len(counts), wer, ci95, *costs, *outcomes)

    def to_json(self) -> dict[str, Any]:
        """The result as dictionaries, lists, strings and numbers, without the transcripts."""
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


@dataclass(frozen=True)
class Change:
    """How much higher a word error rate is than that of a control, over the same clips.

    Attributes:
        wer: difference of the pooled rates, a fraction; negative if the control is worse.
        ci95: its 95 % bootstrap interval. Clips are drawn for both together, so what makes a clip hard for both drops
            out.
        clips: number of clips that were transcribed under all conditions; the others are left out.
    """

    wer: float
    ci95: tuple[float, float]
    clips: int


def change(pairs: Sequence[tuple[Result, Result]], seed: int, normalize: Normalizer = "lower") -> Change | None:
    """Compare results with their controls, over all pairs ``(result, control)`` together.

    Args:
        pairs: results of the same clips; one pair, or one for each of several rates.
        seed: draws the interval's clips.
        normalize: the form in which to compare transcripts.

    Returns:
        ``None`` if no clip was transcribed under all conditions.
    """
    more: Counter[str] = Counter()  # errors, by clip
    spoken: Counter[str] = Counter()
    common: set[str] | None = None
    for result, control in pairs:
        ours, theirs = (_by_clip(side, normalize) for side in (result, control))
        both = ours.keys() & theirs.keys()
        common = both if common is None else common & both
        for name in both:
            more[name] += ours[name].errors - theirs[name].errors
            spoken[name] += theirs[name].words
    ids = [item.id for item in pairs[0][0].hypotheses if item.id in (common or ())]
    if not ids:
        return None
    errors, words = [more[name] for name in ids], [spoken[name] for name in ids]
    return Change(sum(errors) / max(sum(words), 1), bootstrap_interval(errors, words, seed), len(ids))


def _by_clip(result: Result, normalize: Normalizer) -> dict[str, WordErrors]:
    references, texts = [item.reference for item in result.hypotheses], [item.text for item in result.hypotheses]
    counts = word_errors(references, texts, normalizer(normalize))
    return {item.id: count for item, count in zip(result.hypotheses, counts, strict=True)}


def run_document(*, command: str, model: str | None, data: str, seed: int) -> dict[str, Any]:
    """Arguments and versions to repeat a run with; see :func:`results_document` for the arguments."""
    # A checkout on the path has no metadata of its own.
    versions = {"mome": __version__, **{name: version(name) for name in ("torch", "transformers")}}
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
    top_k: int | None = None,
) -> dict[str, Any]:
    """Results, with all that is needed to repeat the run.

    Args:
        results: the results.
        command: the command line.
        model: folder or hub id; ``None`` for transcripts of another system.
        data: the manifest.
        seed: seed of noise and intervals.
        normalize: the form in which transcripts were compared.
        interrupted: whether the run was stopped before all clips were done.
        top_k: active routed experts, if that number was chosen.
    """
    return {
        **run_document(command=command, model=model, data=data, seed=seed),
        "normalize": normalize,
        **({} if top_k is None else {"top_k": top_k}),
        "interrupted": interrupted,
        "results": [result.to_json() for result in results],
    }


def write_json(path: str | Path, document: dict[str, Any]) -> None:
    """Write a document as JSON, completely or not at all; its folder is created if missing.

    Raises:
        MomeError: the file cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_csv(results: Sequence[Result]) -> str:
    """The transcripts of results as CSV, a line per clip and condition, for :func:`mome.evaluation.score.score`."""
    rows = []
    for result in results:
        snr = "" if result.condition.snr_db is None else f"{result.condition.snr_db:g}"
        condition = (result.condition.task, str(result.condition.rates), snr)
        rows += [(item.id, *condition, item.reference, item.text) for item in result.hypotheses]
    return table_text(("id", "task", "rates", "snr_db", "reference", "text"), rows)
