"""Word error rates of any system's transcripts in a CSV file, computed as in an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Literal

from mome.data.manifests import read_references
from mome.data.tables import read_rows
from mome.errors import MomeError, listed
from mome.evaluation.normalizers import Normalizer
from mome.evaluation.result import Condition, ExternalCondition, Failure, Hypothesis, Result
from mome.rates import TASKS, Rates, Task

Missing = Literal["error", "empty", "skip"]


def score(
    transcripts: Path,
    data: Path,
    split: str | None = None,
    *,
    task: Task | None = None,
    missing: Missing = "error",
    normalize: Normalizer = "lower",
    seed: int = 0,
) -> list[Result]:
    """Score a CSV file of transcripts against a manifest.

    Every condition in the file (a system at a task, rates and a noise level) is scored over the same clips, all of the
    split. Transcripts of other splits are ignored.

    Args:
        transcripts: the CSV file, see :func:`read_transcripts`.
        data: the manifest.
        split: the split to score; by default all clips.
        task: the task of transcripts without task and rates.
        missing: what to do about a clip without a transcript: raise an error, count an empty transcript, or list the
            clip as a failure and leave it out of the figures.
        normalize: the form in which to compare transcripts, see :func:`~mome.evaluation.normalizers.normalizer`.
        seed: seed of the intervals.

    Returns:
        The result of each condition, in the order of the file.

    Raises:
        MomeError: a file cannot be read, an id is unknown, or a clip is missing.
    """
    by_condition = read_transcripts(transcripts, task)
    references, known = read_references(data, split)
    names = dict.fromkeys(name for texts in by_condition.values() for name in texts)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MomeError(f"{transcripts} has {len(unknown)} ids that are not in {data}: {listed(unknown)}")
    if missing == "error":
        for condition, texts in by_condition.items():
            absent = [name for name in references if name not in texts]
            if absent:
                raise MomeError(
                    f"{transcripts} has no transcript of {len(absent)} of {len(references)} clips for {condition}: "
                    f"{listed(absent)}; add them, or choose --missing empty or --missing skip"
                )
    return [
        _result(condition, texts, references, missing, normalize, seed) for condition, texts in by_condition.items()
    ]


def controls(results: Sequence[Result], others: Sequence[Result]) -> list[Result | None]:
    """The other system's result that each result is compared with.

    It has the same task, rates and noise level or, where the other system has only one result of a task at a noise
    level, that one: Whisper has no rates, and is compared with all of ours. A task that is not known is like any.

    Returns:
        As many as ``results``; ``None`` where there is no such one, or several.
    """

    def control(condition: Condition | ExternalCondition) -> Result | None:
        near = [
            other
            for other in others
            if other.condition.snr_db == condition.snr_db
            and (other.condition.task == condition.task or None in (other.condition.task, condition.task))
        ]
        same = [other for other in near if other.condition.rates == condition.rates]
        return next((found[0] for found in (same, near) if len(found) == 1), None)

    return [control(result.condition) for result in results]


def _result(
    condition: ExternalCondition,
    texts: Mapping[str, str],
    references: Mapping[str, str],
    missing: Missing,
    normalize: Normalizer,
    seed: int,
) -> Result:
    hypotheses = [
        Hypothesis(name, reference, texts.get(name, ""))
        for name, reference in references.items()
        if name in texts or missing == "empty"
    ]
    present = {item.id for item in hypotheses}
    failures = [Failure(name, "no transcript") for name in references if name not in present]
    return Result.of(condition, hypotheses, seed, normalize=normalize, failures=failures)


def read_transcripts(path: Path, task: Task | None = None) -> dict[ExternalCondition, dict[str, str]]:
    """Read the transcripts of a CSV file, by condition and clip id.

    Required columns are id and text, the latter possibly empty. Optional ones are system (by default the file's stem),
    task (by default that of the rates, else ``task``), rates and snr_db.

    Raises:
        MomeError: the file cannot be read or has no rows, lacks a column, has an invalid field, or has two transcripts
            of a clip for a condition.
    """
    by_condition: dict[ExternalCondition, dict[str, str]] = {}
    lines: dict[tuple[ExternalCondition, str], int] = {}
    for line, row in read_rows(path, ("id", "text")):
        try:
            condition, name = _condition(row, path.stem, task), row["id"]
            if not name:
                raise MomeError("the id is empty: fill it in or delete the line")
        except MomeError as error:
            raise MomeError(f"{path}, line {line}: {error}") from None
        first = lines.setdefault((condition, name), line)
        if first != line:
            raise MomeError(
                f"{path}: clip '{name}' is in line {first} and in line {line}: keep one, or tell them apart by a "
                "column system, task, rates or snr_db"
            )
        by_condition.setdefault(condition, {})[name] = row["text"]
    return by_condition


def _condition(row: dict[str, str], system: str, default: Task | None) -> ExternalCondition:
    rates = Rates.parse(row["rates"]) if row.get("rates") else None
    task = _task(row["task"]) if row.get("task") else None if rates else default
    if rates is not None and task not in (None, rates.task):
        raise MomeError(f"rates '{rates}' are those of {rates.task}, not of {task}")
    level = _level(row.get("snr_db", ""))
    return ExternalCondition(row.get("system") or system, rates.task if rates else task, rates, level)


def _task(text: str) -> Task:
    for task in TASKS:
        if text.lower() == task:
            return task
    raise MomeError(f"task '{text}' is unknown: write {', '.join(TASKS)} or nothing")


def _level(text: str) -> float | None:
    """Parse a ratio in dB; ``None`` for clean speech."""
    if text.lower() in ("", "clean"):
        return None
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not isfinite(level):
        raise MomeError(
            f"snr_db '{text}' is not a number of dB: write one such as 0 or -5, or nothing for clean speech"
        )
    return level
