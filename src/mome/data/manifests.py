"""Manifests: CSV files that list clips with their splits and transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mome.data.tables import read_rows
from mome.errors import MomeError

COLUMNS = ("id", "path", "split", "text")


@dataclass(frozen=True)
class ManifestRow:
    """One clip: a name of its own, its media file, the split it belongs to, and what is said in it."""

    id: str
    path: Path
    split: str
    text: str


def read_manifest(path: str | Path, split: str | None = None, *, silence: bool = False) -> list[ManifestRow]:
    """Read a manifest, a CSV file with the columns id, path, split and text; others are ignored.

    Args:
        path: the manifest; media paths in it are relative to its folder, or absolute.
        split: rows of this split only, in the file's order; ``None``: all rows. Other splits' media files
            need not be there.
        silence: whether the text of a clip may be empty, as nothing is said in it.

    Raises:
        MomeError: the manifest cannot be read or has no rows, lacks a column, repeats an id, has an
            empty field, does not know the split, or names media files that are missing.
    """
    path = Path(path)
    rows = _parse(path, silence)
    chosen = rows if split is None else [row for row in rows if row.split == split]
    if not chosen:
        known = ", ".join(dict.fromkeys(row.split for row in rows))
        raise MomeError(f"{path} has no split '{split}': its splits are {known}")
    missing = [row for row in chosen if not _is_file(row.path)]
    if missing:
        more = "" if len(missing) == 1 else f", and {len(missing) - 1} more of {len(chosen)} are missing too"
        raise MomeError(f"{path}: media file {missing[0].path} of clip {missing[0].id} is not there{more}")
    return chosen


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _parse(path: Path, silence: bool) -> list[ManifestRow]:
    rows: list[ManifestRow] = []
    lines: dict[str, int] = {}
    for line, values in read_rows(path, COLUMNS, "manifest, a CSV file"):
        row = _row(path, line, values, silence)
        if row.id in lines:
            raise MomeError(
                f"{path}: id '{row.id}' is in line {lines[row.id]} and in line {line}: give each clip its own"
            )
        lines[row.id] = line
        rows.append(row)
    return rows


def _row(path: Path, line: int, values: dict[str, str], silence: bool) -> ManifestRow:
    for name in COLUMNS:
        if not values[name] and not (silence and name == "text"):
            raise MomeError(f"{path}, line {line}: the {name} is empty: fill it in or delete the line")
    return ManifestRow(values["id"], path.parent / values["path"], values["split"], values["text"])
