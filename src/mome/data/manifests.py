"""Manifests: CSV files that list clips with their splits and transcripts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mome.data.tables import read_rows, table_text
from mome.errors import MomeError
from mome.files import write_text

COLUMNS = ("id", "path", "split", "text")


class NoSuchSplit(MomeError):
    """A manifest has no clip of the split that is asked for."""


@dataclass(frozen=True)
class ManifestRow:
    """One clip: its unique id, media file, split and text."""

    id: str
    path: Path
    split: str
    text: str


def read_manifest(path: str | Path, split: str | None = None, *, silence: bool = False) -> list[ManifestRow]:
    """Read a manifest, a CSV file with the columns id, path, split and text; other columns are ignored.

    Args:
        path: the manifest; media paths in it are absolute or relative to its folder.
        split: the split to read, whose media files must exist; ``None``: all rows.
        silence: whether texts may be empty, for clips without speech.

    Returns:
        The rows in the order of the file.

    Raises:
        NoSuchSplit: no row is of the split.
        MomeError: the manifest cannot be read or has no rows, lacks a column, repeats an id, has an empty field, or
            names media files that are missing.
    """
    path = Path(path)
    rows = _parse(path, split, silence)
    chosen = rows if split is None else [row for row in rows if row.split == split]
    if not chosen:
        known = ", ".join(dict.fromkeys(row.split for row in rows))
        raise NoSuchSplit(f"{path} has no split '{split}': its splits are {known}")
    missing = [row for row in chosen if not _is_file(row.path)]
    if missing:
        more = "" if len(missing) == 1 else f", and {len(missing) - 1} more of {len(chosen)} are missing too"
        raise MomeError(f"{path}: media file {missing[0].path} of clip {missing[0].id} is not there{more}")
    return chosen


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, such as one too long
        return False


def _parse(path: Path, split: str | None, silence: bool) -> list[ManifestRow]:
    rows: list[ManifestRow] = []
    lines: dict[str, int] = {}
    for line, values in read_rows(path, COLUMNS, "manifest, a CSV file"):
        row = _row(path, line, values, silence or split not in (None, values["split"]))
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


def read_references(path: Path, split: str | None = None) -> tuple[dict[str, str], set[str]]:
    """Read the texts of a manifest, which may be empty.

    Unlike for :func:`read_manifest`, the media files need not exist, nor the columns path and, if all rows are read,
    split.

    Returns:
        The texts of the split by clip id, and the ids of all splits.

    Raises:
        MomeError: the manifest cannot be read, is incomplete, repeats an id or has no such split.
    """
    chosen: dict[str, str] = {}
    splits: dict[str, str] = {}
    for line, row in read_rows(path, ("id", "text") if split is None else ("id", "split", "text")):
        name = row["id"]
        if not name:
            raise MomeError(f"{path}, line {line}: the id is empty: fill it in or delete the line")
        if name in splits:
            raise MomeError(f"{path}, line {line}: id '{name}' is there twice: give each clip its own")
        splits[name] = row.get("split", "")
        if split is None or splits[name] == split:
            chosen[name] = row["text"]
    if not chosen:
        raise MomeError(f"{path} has no split '{split}': its splits are {', '.join(dict.fromkeys(splits.values()))}")
    return chosen, set(splits)


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> tuple[list[ManifestRow], list[tuple[str, str]]]:
    """Write a manifest; its media paths are relative to its folder, so that both can be moved together.

    Returns:
        The rows written, and the media file and reason of each row that cannot be listed. Without any row to write,
        no file is written.

    Raises:
        MomeError: two rows have the same id, or the file cannot be written.
    """
    written: dict[str, ManifestRow] = {}
    lines, failures = [], []
    for row in rows:
        relative = Path(os.path.relpath(row.path.resolve(), path.parent.resolve())).as_posix()
        if reason := unlistable(relative) or unlistable(row.id):
            failures.append((str(row.path), reason))
            continue
        if row.id in written:
            raise MomeError(f"{written[row.id].path} and {row.path} would both be clip {row.id}: rename one of them")
        written[row.id] = row
        lines.append((row.id, relative, row.split, row.text))
    if written:
        write_text(path, table_text(COLUMNS, lines))
    return list(written.values()), failures


def unlistable(name: str) -> str:
    """Why a name cannot be a field of a manifest, as fields are UTF-8 and stripped; empty if it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not in UTF-8: rename it"
    if name != name.strip() or any(not character.isprintable() for character in name):
        return "the name has a space at its end or a control character in it: rename it"
    return ""
