"""Transcripts as CSV files: written by an evaluation, read from any system."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from mome.data.tables import read_rows
from mome.errors import MomeError
from mome.evaluation.result import Group, Result
from mome.rates import TASKS, Rates, Task

COLUMNS = ("id", "task", "rates", "snr_db", "reference", "text")


def to_csv(results: Sequence[Result]) -> str:
    """The transcripts behind results, one line for each clip and condition."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        snr = "" if result.condition.snr_db is None else f"{result.condition.snr_db:g}"
        where = (result.condition.task, str(result.condition.rates), snr)
        writer.writerows((one.id, *where, one.reference, one.text) for one in result.heard)
    return sheet.getvalue()


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
            group, name = _group(row, path.stem, task), _clip(row)
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


def read_references(path: Path, split: str | None = None) -> tuple[dict[str, str], set[str]]:
    """What is said in the clips of a manifest, by id, and the ids of all its splits; the text may be empty.

    Unlike for an evaluation, the media files need not be there.

    Raises:
        MomeError: the manifest cannot be read, is incomplete, repeats an id or does not know the split.
    """
    chosen: dict[str, str] = {}
    splits: dict[str, str] = {}
    for line, row in read_rows(path, ("id", "text") if split is None else ("id", "split", "text")):
        try:
            name = _clip(row)
            if name in splits:
                raise MomeError(f"id '{name}' is there twice: give each clip its own")
        except MomeError as error:
            raise MomeError(f"{path}, line {line}: {error}") from None
        splits[name] = row.get("split", "")
        if split is None or splits[name] == split:
            chosen[name] = row["text"]
    if not chosen:
        raise MomeError(f"{path} has no split '{split}': its splits are {', '.join(dict.fromkeys(splits.values()))}")
    return chosen, set(splits)


def _clip(row: dict[str, str]) -> str:
    if not row["id"]:
        raise MomeError("the id is empty: fill it in or delete the line")
    return row["id"]


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
