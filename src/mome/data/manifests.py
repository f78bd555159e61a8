"""Manifests: CSV files that list clips with their splits and transcripts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from sys import intern

from mome.archive import find_member
from mome.clip import WHOLE, Excerpt
from mome.data.tables import read_rows, table_text
from mome.errors import MomeError
from mome.files import write_text

COLUMNS = ("id", "path", "split", "text")
MORE_COLUMNS = ("audio", "start", "end", "frames")
"""Columns that a manifest may have; an empty field says nothing."""


class NoSuchSplit(MomeError):
    """A manifest has no clip of the split that is asked for."""


@dataclass(frozen=True, slots=True, init=False)
class ManifestRow:
    """One clip.

    Args:
        id: the clip's own name.
        path: its media file, or ``archive.tar/name`` for one in a tar file.
        split: the split that it is in.
        text: what is said.
        excerpt: the part of the file that is meant, and the file with the sound if it is another.
        frames: video frames of the clip, 25 a second; ``None`` if the manifest does not say.
    """

    id: str
    _path: str  # a path takes three times the memory of its text
    split: str
    text: str
    excerpt: Excerpt
    frames: int | None

    def __init__(
        self, id: str, path: Path, split: str, text: str, excerpt: Excerpt = WHOLE, frames: int | None = None
    ) -> None:
        values = (id, str(path), split, text, excerpt, frames)
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @property
    def path(self) -> Path:
        """The media file."""
        return Path(self._path)


def read_manifest(
    path: str | Path, split: str | None = None, *, silence: bool = False, missing_files: bool = False
) -> list[ManifestRow]:
    """Read a manifest, a CSV file with the columns id, path, split and text, and perhaps :data:`MORE_COLUMNS`.

    ``audio`` is another file with the sound, ``start`` and ``end`` are the seconds of the file that are meant,
    ``frames`` is the number of video frames. Other columns are ignored.

    Args:
        path: the manifest; media paths in it are absolute or relative to its folder.
        split: the split to read, whose media files must exist; ``None``: all rows.
        silence: whether texts may be empty, for clips without speech.
        missing_files: whether media files may be missing.

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
    files = [(row, file) for row in (() if missing_files else chosen) for file in (row.path, row.excerpt.sound) if file]
    missing = [(row, file) for row, file in files if not _is_file(file)]
    if missing:
        more = "" if len(missing) == 1 else f", and {len(missing) - 1} more of {len(chosen)} are missing too"
        raise MomeError(f"{path}: media file {missing[0][1]} of clip {missing[0][0].id} is not there{more}")
    return chosen


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or find_member(path) is not None
    except OSError:  # a name that no file can have, such as one too long
        return False


def _parse(path: Path, split: str | None, silence: bool) -> list[ManifestRow]:
    rows: list[ManifestRow] = []
    lines: dict[str, int] = {}
    for line, values in read_rows(path, COLUMNS, "manifest, a CSV file"):
        row = _row(f"{path}, line {line}", path.parent, values, silence or split not in (None, values["split"]))
        if row.id in lines:
            raise MomeError(
                f"{path}: id '{row.id}' is in line {lines[row.id]} and in line {line}: give each clip its own"
            )
        lines[row.id] = line
        rows.append(row)
    return rows


def _row(where: str, folder: Path, values: dict[str, str], silence: bool) -> ManifestRow:
    """The row of these fields, with paths relative to ``folder``; ``where`` begins the message if they are wrong."""
    for name in COLUMNS:
        if not values[name] and not (silence and name == "text"):
            raise MomeError(f"{where}: the {name} is empty: fill it in or delete the line")
    start, end = (_number(where, values, name) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise MomeError(f"{where}: the part ends at {end:g} s, before it starts: correct start and end")
    sound = values.get("audio")
    part = (start, end, folder / sound if sound else None)
    excerpt = WHOLE if part == (None, None, None) else Excerpt(*part)
    frames = _number(where, values, "frames")
    if frames is not None and (frames < 1 or frames != int(frames)):
        raise MomeError(f"{where}: frames is {values['frames']}: give a whole number, or nothing")
    own = (values["id"], folder / values["path"], intern(values["split"]), values["text"])
    return ManifestRow(*own, excerpt, None if frames is None else int(frames))


def _number(where: str, values: dict[str, str], name: str) -> float | None:
    """A field with a number from 0 on; ``None`` if it is empty or there is no such column."""
    text = values.get(name)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise MomeError(f"{where}: {name} is '{text}': give a number, from 0 on, or nothing")
    return number


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


def write_manifest(
    path: Path, rows: Iterable[ManifestRow], more: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[list[ManifestRow], list[tuple[str, str]]]:
    """Write a manifest; its media paths are relative to its folder, so that both can be moved together.

    Of :data:`MORE_COLUMNS` it has those that some row needs.

    Args:
        path: the file.
        rows: the clips.
        more: further columns: each one's name, and its fields by clip id.

    Returns:
        The rows written, and the media file and reason of each row that cannot be listed. Without any row to write,
        no file is written.

    Raises:
        MomeError: two rows have the same id, or the file cannot be written.
    """
    written: dict[str, ManifestRow] = {}
    lines, failures = [], []
    for row in rows:
        files = [_relative(file, path.parent) for file in (row.path, row.excerpt.sound) if file is not None]
        if reason := next(filter(None, map(unlistable, (*files, row.id))), ""):
            failures.append((str(row.path), reason))
            continue
        if row.id in written:
            raise MomeError(f"{written[row.id].path} and {row.path} would both be clip {row.id}: rename one of them")
        times = ("" if time is None else f"{round(time, 3):.10g}" for time in (row.excerpt.start, row.excerpt.end))
        basic = (row.id, files[0], row.split, row.text)
        extra = ("".join(files[1:]), *times, "" if row.frames is None else str(row.frames))
        fields = dict(zip((*COLUMNS, *MORE_COLUMNS), (*basic, *extra), strict=True))
        try:  # as readers will
            _row(f"{row.path}, clip {row.id}", path.parent, fields, silence=True)
        except MomeError as error:
            failures.append((str(row.path), str(error)))
            continue
        written[row.id] = row
        lines.append((basic, extra))
    if written:
        own = [place for place in range(len(MORE_COLUMNS)) if any(extra[place] for _, extra in lines)]
        columns = (*COLUMNS, *(MORE_COLUMNS[place] for place in own), *(more or {}))
        table = (
            (*basic, *(extra[place] for place in own), *(each.get(basic[0], "") for each in (more or {}).values()))
            for basic, extra in lines
        )
        write_text(path, table_text(columns, table))
    return list(written.values()), failures


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()


def unlistable(name: str) -> str:
    """Why a name cannot be a field of a manifest, as fields are UTF-8 and stripped; empty if it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not in UTF-8: rename it"
    if name != name.strip() or any(not character.isprintable() for character in name):
        return "the name has a space at its end or a control character in it: rename it"
    return ""


def write_failures(path: Path, failures: Iterable[tuple[str, str]]) -> None:
    """Write what could not be listed or prepared, with the reasons, to a CSV file; raises :class:`MomeError`."""
    write_text(path, table_text(("name", "reason"), failures))
