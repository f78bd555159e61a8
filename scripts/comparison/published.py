"""What others published, from results/published.yaml, for the tables that quote it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


class Published:
    """The quoted tables.

    Attributes:
        tables: by name, each with ``source``, ``read``, ``head`` and ``rows``.
    """

    def __init__(self, file: Path) -> None:
        """Read the tables, and exit if a row has more or fewer cells than its table's head."""
        self.tables: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())
        for name, content in self.tables.items():
            content["head"], *content["rows"] = (
                [cell.strip() for cell in line.split("|")] for line in (content["head"], *content["rows"])
            )
            for row in content["rows"]:
                if len(row) != len(content["head"]):
                    raise SystemExit(f"{file}: {name} has {len(content['head'])} columns, but a row {row}")

    def rows(self, name: str) -> list[list[str]]:
        """The rows of a table, without its head."""
        rows: list[list[str]] = self.tables[name]["rows"]
        return rows

    def quoted(self, name: str, ours: Iterable[list[str]] = ()) -> str:
        """A table, with rows of ours at its end, under a line that marks it as quoted and names the source."""
        content = self.tables[name]
        return f"{self.mark(name)}\n\n{table(content['head'], [*content['rows'], *ours])}"

    def mark(self, name: str) -> str:
        """The line that marks a table as quoted."""
        content = self.tables[name]
        return f"*Quoted, not measured here:* {content['source']}. *Read in:* {content['read']}."


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
