"""CSV files with a header, such as manifests and transcripts."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mome.errors import MomeError, reason, shortened

csv.field_size_limit(10_000_000)  # by default 131,072 characters, which the transcript of some hours has


def read_rows(path: Path, needed: Sequence[str], what: str = "CSV file") -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header: the line number and the fields of each row, by column and stripped.

    Args:
        path: the file.
        needed: columns that the file must have.
        what: what messages call the file.

    Raises:
        MomeError: the file cannot be read, has no rows, lacks a needed column or has a column twice, or the number of
            fields of a row is not that of the header.
    """
    advice = f"give a {what} with the columns {', '.join(needed)}"
    empty = True
    try:
        if path.exists() and not path.is_file():
            raise MomeError(f"{path} is a {'folder' if path.is_dir() else 'device or pipe'}: {advice}")
        # Spreadsheets write a byte-order mark, which "utf-8-sig" drops.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise MomeError(f"{path} is empty: {advice}")
            _check_header(path, header, needed)
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise MomeError(
                        f"{path}, line {reader.line_num} has {len(fields)} fields, the header has {len(header)}: "
                        "put text with commas between quotes"
                    )
                empty = False
                yield reader.line_num, dict(zip(header, (field.strip() for field in fields), strict=True))
    except FileNotFoundError:
        raise MomeError(f"{path} does not exist: {advice}") from None
    except OSError as error:
        raise MomeError(f"{path} cannot be read: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MomeError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if empty:
        raise MomeError(f"{path} has a header only: add a line for each clip")


def has_columns(path: Path, columns: Sequence[str]) -> bool:
    """Whether a file begins with a header that has these columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader([file.readline(10_000)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return {*columns} <= {name.strip() for name in header}


def _check_header(path: Path, found: list[str], needed: Sequence[str]) -> None:
    twice = [name for name, number in Counter(found).items() if number > 1 and name]
    if twice:
        raise MomeError(f"{path} has the column {twice[0]} twice: keep one of them")
    missing = [name for name in needed if name not in found]
    if not missing:
        return
    lacks = f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}"
    words = re.findall(r"\w+", " ".join(found).lower())
    if 2 * len(set(needed).intersection(words)) < len(needed):  # another kind of file: do not quote it
        raise MomeError(f"{lacks}: its first line is no header of a table with {', '.join(needed)}")
    hints = []
    for name in missing:
        near = difflib.get_close_matches(name, [other for other in found if other not in needed], n=1)
        hints += [f"is '{near[0]}' meant as {name}?"] if near else []
    shown = shortened(", ".join(found))
    raise MomeError(f"{lacks}: its header, split at commas, has {shown}" + "".join(f"; {hint}" for hint in hints))


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV file with a header, for :func:`read_rows` to read."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return sheet.getvalue()
