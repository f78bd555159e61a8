"""The quoted figures: as printed, marked, and in the page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published():
    spec = importlib.util.spec_from_file_location("published", ROOT / "scripts" / "comparison" / "published.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_written_as_they_were_printed_and_marked(published, tmp_path):
    file = tmp_path / "published.yaml"
    file.write_text("one:\n  source: a paper\n  read: its text\n  head: method | 4,2\n  rows: [a | 9.0, b | 160.0]\n")
    text = published.Published(file).quoted("one", [["ours", "8.0"]])
    assert text.splitlines() == [
        "*Quoted, not measured here:* a paper. *Read in:* its text.",
        *("", "| method | 4,2 |", "| --- | --- |", "| a | 9.0 |", "| b | 160.0 |", "| ours | 8.0 |"),
    ]


def test_a_row_with_a_cell_too_few(published, tmp_path):
    file = tmp_path / "published.yaml"
    file.write_text(
        "one:\n  source: a paper\n  read: its text\n  head: method | 4,2 | 4,5\n  rows: [a | 1 | 2, b | 1]\n"
    )
    with pytest.raises(SystemExit, match="one has 3 columns, but a row"):
        published.Published(file)


def test_the_page_quotes_all_of_them(published):
    page = (ROOT / "docs" / "results.md").read_text()
    quoted = published.Published(ROOT / "results" / "published.yaml")
    assert len(quoted.tables) >= 12
    for name in quoted.tables:
        if name in ("mome-avsr", "mtsk-cost"):  # row by row beside ours
            assert quoted.mark(name) in page
        else:
            assert quoted.quoted(name) in page
