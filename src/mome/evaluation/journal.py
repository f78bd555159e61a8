"""What became of each clip, a line of JSON for each, from which an interrupted run goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self

from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.evaluation.result import Condition, Failure
from mome.files import disk_errors, write_text
from mome.text.transcript import Transcript

if sys.platform != "win32":
    import fcntl

Outcome = tuple[ManifestRow, float, Condition, Transcript | Failure]
"""A clip, its length in seconds, a condition, and the clip's outcome under it."""

_VERSION = 1


class Journal:
    """A file with a line about the run, and one for each clip that is done; a context manager.

    One process writes it: it is locked while it is open, where there are locks. When it is opened again, it loses the
    lines of clips that failed, whose manifest row names another source now, or that were not written to their end:
    these clips are done once more, and no clip has two lines.

    Attributes:
        done: the outcomes of the clips that are in the file, under all conditions.
        failed_elsewhere: clips of other runs that failed, with the reason.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], rows: Sequence[ManifestRow], conditions: Sequence[Condition]
    ) -> None:
        """Open the file, or make it.

        Args:
            path: the file.
            settings: what transcripts depend on besides the clip, as strings, numbers, lists and dictionaries.
            rows: the clips of this run; the lines of others are kept.
            conditions: the conditions of this run.

        Raises:
            MomeError: the file cannot be read or written, is something else or another process's, or has other settings
                or conditions.
        """
        self.path = path
        self.done: dict[ManifestRow, list[Outcome]] = {}
        self.failed_elsewhere: dict[str, str] = {}
        with ExitStack() as locks:
            locks.enter_context(_locked(path))
            if self._read(settings, rows, conditions):
                locks.enter_context(_locked(path))  # the file that took its place
            self._locks = locks.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def _read(self, settings: Mapping[str, Any], rows: Sequence[ManifestRow], conditions: Sequence[Condition]) -> bool:
        """Take what is done, and write the file without all else if need be; returns whether it was written."""
        path = self.path
        head = {"journal": _VERSION, **settings, "conditions": [condition.to_json() for condition in conditions]}
        head = json.loads(json.dumps(head))
        with disk_errors(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        kept = lines[:1] or [json.dumps(head)]
        before = _parsed(kept[0])
        if before.get("journal") != _VERSION:
            raise MomeError(f"{path} is no journal of this version: give another file")
        if others := [name for name in {**head, **before} if before.get(name) != head.get(name)]:
            raise MomeError(f"{path} is of a run with other {' and '.join(others)}: delete it, or give another file")
        known, seen = {row.id: row for row in rows}, set()
        for text in lines[1:]:
            try:
                line = _parsed(text)
                name = line["id"]
                row = known.get(name)
                if name in seen or (row is not None and line["source"] != _source(row)):
                    continue
                if row is not None:
                    self.done[row] = _outcomes(row, line, conditions)
                elif errors := [result["error"] for result in line["results"] if "error" in result]:
                    self.failed_elsewhere[str(name)] = str(errors[0])
            except (KeyError, TypeError, ValueError, MomeError):
                continue
            seen.add(name)
            kept.append(text)
        changed = not lines or len(kept) < len(lines)
        if changed:
            write_text(path, "\n".join(kept) + "\n")
        return changed

    def add(self, outcomes: Mapping[ManifestRow, Sequence[Outcome]]) -> None:
        """Add clips that are done; raises :class:`MomeError` if they cannot be written."""
        text = "".join(json.dumps(_line(row, own)) + "\n" for row, own in outcomes.items())
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def _locked(path: Path) -> AbstractContextManager[Any]:
    """Open a file for this process alone, where there are locks; raises :class:`MomeError` if another one has it."""
    if sys.platform == "win32":  # where an open file could not be replaced
        return nullcontext()
    with disk_errors(path), ExitStack() as opened:
        file = opened.enter_context(path.open("ab"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(file.fileno()), path.stat())  # else it was replaced in between
        except BlockingIOError:
            free = False
        except OSError:  # a disk without locks
            free = True
        if not free:
            raise MomeError(f"{path} is being written by another process: wait for its end, or give another file")
        return opened.pop_all()


def _source(row: ManifestRow) -> list[Any]:
    part = row.excerpt
    return [row.path.name, part.start, part.end, None if part.sound is None else part.sound.name]


def _parsed(text: str) -> dict[str, Any]:
    """A line of a journal; empty if it is none."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {}


def _line(row: ManifestRow, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for _, seconds, condition, outcome in outcomes:
        asked = {"asked": str(condition.rates), "snr_db": condition.snr_db}
        if isinstance(outcome, Failure):
            results.append({**asked, "error": outcome.error})
        else:
            results.append({**asked, "length": seconds, **outcome.to_dict()})
    return {"id": row.id, "source": _source(row), "results": results}


def _outcomes(row: ManifestRow, line: dict[str, Any], conditions: Sequence[Condition]) -> list[Outcome]:
    """The outcomes in a line; raises ``KeyError`` if a condition is missing or failed."""
    found = {(result["asked"], result["snr_db"]): result for result in line["results"]}
    results = [(condition, found[str(condition.rates), condition.snr_db]) for condition in conditions]
    return [(row, result["length"], condition, Transcript.from_dict(result)) for condition, result in results]
