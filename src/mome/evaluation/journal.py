"""What became of each clip, a line of JSON for each, from which an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.evaluation.result import Condition, Failure
from mome.files import disk_errors, write_text
from mome.text.transcript import Transcript

Outcome = tuple[ManifestRow, float, Condition, Transcript | Failure]
"""A clip, its length in seconds, a condition, and the clip's outcome under it."""

_VERSION = 1


class Journal:
    """A file with a line about the run, and one for each clip that is done; one process writes it.

    When it is opened again, it loses the lines of clips that failed, whose manifest row names another source now, or
    that were not written to their end: these clips are done once more, and no clip has two lines.

    Attributes:
        done: the outcomes of the clips that are in the file, under all conditions.
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
            MomeError: the file cannot be read or written, is something else, or has other settings or conditions.
        """
        self.path = path
        self.done: dict[ManifestRow, list[Outcome]] = {}
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
        known = {row.id: row for row in rows}
        for text in lines[1:]:
            try:
                line = _parsed(text)
                row = known.get(line["id"])
                if row is not None:
                    if line["source"] != _source(row):
                        continue
                    self.done[row] = _outcomes(row, line, conditions)
            except (KeyError, TypeError, ValueError, MomeError):
                continue
            kept.append(text)
        if not lines or len(kept) < len(lines):
            write_text(path, "\n".join(kept) + "\n")

    def add(self, outcomes: Mapping[ManifestRow, Sequence[Outcome]]) -> None:
        """Add clips that are done; raises :class:`MomeError` if they cannot be written."""
        text = "".join(json.dumps(_line(row, own)) + "\n" for row, own in outcomes.items())
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


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
