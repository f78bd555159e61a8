"""What an analysis found, and its files: JSON, a CSV beside each figure, the figures as PNG and PDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mome.data.tables import table_text
from mome.evaluation.result import write_json
from mome.files import atomic_write, disk_errors, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Columns and rows; numbers keep their full precision."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]


def number(value: float) -> float | None:
    """A number for JSON and CSV; ``None``, an empty field, for NaN."""
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class Findings:
    """The outcome of an analysis.

    Attributes:
        name: what was analysed, such as ``experts``; the JSON file is called so.
        document: the figures as dictionaries, lists, strings and numbers.
        tables: by name; a figure's table has the figure's name.
        figures: functions that draw a figure, by name.
    """

    name: str
    document: dict[str, Any]
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)

    def write(self, folder: Path, run: Mapping[str, Any]) -> list[Path]:
        """Write ``NAME.json``, and each table and figure; returns the files.

        Args:
            folder: made if it is missing.
            run: what repeats the run, see :func:`~mome.evaluation.result.run_document`; it comes first in the JSON.

        Raises:
            MomeError: a file cannot be written.
        """
        from mome.analysis.figures import drawing

        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{self.name}.json"]
        write_json(files[0], {**run, **self.document})
        for name, table in self.tables.items():
            files.append(folder / f"{name}.csv")
            write_text(files[-1], table_text(table.columns, table.rows))
        for name, draw in self.figures.items():
            with drawing():
                figure = draw()
                for suffix in ("png", "pdf"):
                    files.append(folder / f"{name}.{suffix}")
                    with atomic_write(files[-1]) as temporary:
                        figure.savefig(temporary, format=suffix)
        return files
