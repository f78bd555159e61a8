"""Word error rates of transcripts in a CSV file that any system made, counted as an evaluation counts its own."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Literal

from mome.data.manifests import read_references
from mome.data.tables import read_rows
from mome.errors import MomeError, listed
from mome.evaluation.normalizers import Normalizer
from mome.evaluation.result import Failure, Group, Hypothesis, Result
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
    """Compare a CSV file of transcripts with a manifest.

    Every group of the file (a system at some task, rates and noise level) is scored over the same clips: all
    of the split. Transcripts of other splits' clips are passed over.

    Args:
        transcripts: see :func:`read_transcripts`.
        data: the manifest.
        split: of the manifest; all its clips by default.
        task: of transcripts that say neither task nor rates.
        missing: what becomes of a clip that a group does not have: an error, an empty transcript, all of whose
            words count as deleted, or a failure, left out of the figures and listed.
        normalize: the form in which transcripts are compared, see :func:`~mome.evaluation.normalizers.normalizer`.
        seed: of the intervals.

    Returns:
        One result per group, in the file's order.

    Raises:
        MomeError: a file is unusable, an id is unknown, or a clip is missing.
    """
    groups = read_transcripts(transcripts, task)
    references, known = read_references(data, split)
    unknown = [name for name in dict.fromkeys(name for texts in groups.values() for name in texts) if name not in known]
    if unknown:
        raise MomeError(f"{transcripts} has {len(unknown)} ids that are not in {data}: {listed(unknown)}")
    if missing == "error":
        for group, texts in groups.items():
            absent = [name for name in references if name not in texts]
            if absent:
                raise MomeError(
                    f"{transcripts} has no transcript of {len(absent)} of {len(references)} clips for {group}: "
                    f"{listed(absent)}; add them, or choose --missing empty or --missing skip"
                )
    return [_result(group, texts, references, missing, normalize, seed) for group, texts in groups.items()]


def _result(
    group: Group,
    texts: Mapping[str, str],
    references: Mapping[str, str],
    missing: Missing,
    normalize: Normalizer,
    seed: int,
) -> Result:
    hypotheses = [
        Hypothesis(name, said, texts.get(name, ""))
        for name, said in references.items()
        if name in texts or missing == "empty"
    ]
    present = {item.id for item in hypotheses}
    failures = [Failure(name, "no transcript") for name in references if name not in present]
    return Result.of(group, hypotheses, seed, normalize=normalize, failures=failures)


def read_transcripts(path: Path, task: Task | None = None) -> dict[Group, dict[str, str]]:
    """The transcripts of a CSV file by clip id, in groups of one system, task, rates and noise level.

    Needed are the columns id and text, which may be empty. Of the others, system, task, rates and snr_db are
    read where they are there; without a system's name, the file's stem is taken, without task and rates, ``task``.

    Raises:
        MomeError: the file cannot be read or has no rows, lacks a column, has a field that is not possible, or
            transcribes a clip twice in a group.
    """
    groups: dict[Group, dict[str, str]] = {}
    lines: dict[tuple[Group, str], int] = {}
    for line, row in read_rows(path, ("id", "text")):
        try:
            group, name = _group(row, path.stem, task), row["id"]
            if not name:
                raise MomeError("the id is empty: fill it in or delete the line")
        except MomeError as error:
            raise MomeError(f"{path}, line {line}: {error}") from None
        first = lines.setdefault((group, name), line)
        if first != line:
            raise MomeError(
                f"{path}: clip '{name}' is in line {first} and in line {line}: keep one, or tell them apart by a "
                "column system, task, rates or snr_db"
            )
        groups.setdefault(group, {})[name] = row["text"]
    return groups


def _group(row: dict[str, str], system: str, default: Task | None) -> Group:
    rates = Rates.parse(row["rates"]) if row.get("rates") else None
    task = _task(row["task"]) if row.get("task") else None if rates else default
    if rates is not None and task not in (None, rates.task):
        raise MomeError(f"rates '{rates}' are those of {rates.task}, not of {task}")
    return Group(row.get("system") or system, rates.task if rates else task, rates, _level(row.get("snr_db", "")))


def _task(text: str) -> Task:
    for task in TASKS:
        if text.lower() == task:
            return task
    raise MomeError(f"task '{text}' is unknown: write {', '.join(TASKS)} or nothing")


def _level(text: str) -> float | None:
    """A ratio in dB; ``None`` for clean speech."""
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
