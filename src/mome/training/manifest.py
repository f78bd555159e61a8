"""Manifests: CSV files that list clips with their splits and transcripts."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path

from mome.errors import MomeError

COLUMNS = ("id", "path", "split", "text")


@dataclass(frozen=True)
class ManifestRow:
    """One clip: a name of its own, its media file, the split it belongs to, and what is said in it."""

    id: str
    path: Path
    split: str
    text: str


def read_manifest(path: str | Path, split: str | None = None) -> list[ManifestRow]:
    """Read a manifest, a CSV file with the columns id, path, split and text; others are ignored.

    Args:
        path: the manifest; media paths in it are relative to its folder, or absolute.
        split: rows of this split only, in the file's order; ``None``: all rows. Other splits' media files
            need not be there.

    Raises:
        MomeError: the manifest cannot be read or has no rows, lacks a column, repeats an id, has an
            empty field, does not know the split, or names media files that are missing.
    """
    path = Path(path)
    rows = _parse(path)
    chosen = rows if split is None else [row for row in rows if row.split == split]
    if not chosen:
        known = ", ".join(dict.fromkeys(row.split for row in rows))
        raise MomeError(f"{path} has no split '{split}': its splits are {known}")
    missing = [row for row in chosen if not row.path.is_file()]
    if missing:
        more = "" if len(missing) == 1 else f", and {len(missing) - 1} more of {len(chosen)} are missing too"
        raise MomeError(f"{path}: media file {missing[0].path} of clip {missing[0].id} is not there{more}")
    return chosen


def _parse(path: Path) -> list[ManifestRow]:
    if path.is_dir():
        raise MomeError(f"{path} is a folder: give a manifest, a CSV file with the columns {', '.join(COLUMNS)}")
    rows: list[ManifestRow] = []
    lines: dict[str, int] = {}
    try:
        # Spreadsheets write a byte-order mark, which "utf-8-sig" drops.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, list(reader.fieldnames or ()))
            for values in reader:
                row = _row(path, reader.line_num, values)
                if row.id in lines:
                    raise MomeError(
                        f"{path}: id '{row.id}' is in line {lines[row.id]} and in line {reader.line_num}: "
                        "give each clip its own"
                    )
                lines[row.id] = reader.line_num
                rows.append(row)
    except FileNotFoundError:
        raise MomeError(f"{path} does not exist: give a manifest, a CSV file") from None
    except OSError as error:
        raise MomeError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MomeError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if not rows:
        raise MomeError(f"{path} lists no clips: it has a header only")
    return rows


def _check_columns(path: Path, found: list[str]) -> None:
    if not found:
        raise MomeError(f"{path} is empty: a manifest is a CSV file with the columns {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if name not in found]
    if not missing:
        return
    hints = []
    for name in missing:
        near = difflib.get_close_matches(name, [other for other in found if other not in COLUMNS], n=1)
        hints += [f"is '{near[0]}' meant as {name}?"] if near else []
    shown = ", ".join(found)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
    raise MomeError(
        f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: "
        f"its header, split at commas, has {shown}" + "".join(f"; {hint}" for hint in hints)
    )


def _row(path: Path, line: int, values: dict[str, str | None]) -> ManifestRow:
    fields = {name: (values[name] or "").strip() for name in COLUMNS}
    for name, value in fields.items():
        if not value:
            raise MomeError(f"{path}, line {line}: the {name} is empty: fill it in or delete the line")
    return ManifestRow(fields["id"], path.parent / fields["path"], fields["split"], fields["text"])
