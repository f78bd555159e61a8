"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mome.errors import MomeError, listed
from mome.rates import TASKS

if TYPE_CHECKING:
    from mome.evaluation.result import Change, Result

_HEADER = ("task", "rates", "SNR dB", "WER %", "95 % interval", "words", "clips", "tokens", "GFLOPs", "RTF")
SOME_FAILED, ALL_FAILED = 1, 2
"""Exit codes after an evaluation in which clips could not be transcribed."""
_LISTED = 10
_STEP = 1e-9
"""With what a progress bar begins: rich tells the time left from its second step on."""
_LONGEST, _LONGEST_NAME = 1000, 30
"""Characters of a line on stderr, and of a name in a progress bar; names and fields may be of any length."""


def note(line: str) -> None:
    """Print one line on stderr, with control characters escaped."""
    print(_printable(line, _LONGEST), file=sys.stderr, flush=True)


def _printable(line: str, longest: int) -> str:
    """A line without its middle if it is too long, and with control characters escaped."""
    if len(line) > longest:
        line = f"{line[: longest // 2]} … {line[-longest // 2 :]}"
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def mistake(message: str) -> None:
    """Print one line about an error that the user can mend."""
    note("mome: " + " ".join(message.splitlines()))


def failure_lines(failures: Iterable[tuple[str, str]]) -> list[str]:
    """Make a line for each reason, with the names of everything that failed for it."""
    reasons: dict[str, list[str]] = {}
    for name, reason in failures:
        reasons.setdefault(" ".join(reason.split()), []).append(name)
    return [
        f"mome: {reason}" if len(names) == 1 and names[0] in reason else f"mome: {listed(names)}: {reason}"
        for reason, names in reasons.items()
    ]


def result(text: str) -> None:
    """Print a result and flush it, so that a pipe gets it at once."""
    print(text, flush=True)


def to_json(document: Any, unicode: bool | None = None, indent: int | None = 2) -> str:
    """Format JSON, for stdout's encoding unless ``unicode`` is given; raises ``ValueError`` for NaN and infinity.

    Without ``indent`` it is one line.
    """
    if unicode is None:
        unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    return json.dumps(document, indent=indent, ensure_ascii=not unicode, allow_nan=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, last_left: bool = True) -> str:
    """Format a table with the first ``left`` columns, and with ``last_left`` the last one, aligned to the left."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    last = len(header) - 1

    def aligned(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < left or (last_left and column == last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([aligned(header), "  ".join("-" * width for width in widths), *map(aligned, rows)])


def gflops(tflops: float) -> str:
    """Format operations, given in units of 10^12, in units of 10^9 with three figures."""
    value = 1000 * tflops
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def results_table(results: Sequence[Result], changes: Sequence[Change | None] | None = None) -> str:
    """One line per result, task by task, with the system's name if that is not the model evaluated.

    Args:
        results: the results.
        changes: those to a control, for a last column.
    """
    from mome.evaluation.result import ExternalCondition

    ranks = {task: rank for rank, task in enumerate((*TASKS, None))}
    order = sorted(range(len(results)), key=lambda place: ranks[results[place].condition.task])
    results = [results[place] for place in order]
    header: tuple[str, ...] = _HEADER
    rows = [_cells(outcome) for outcome in results]
    if changes is not None:
        header = (*header, "WER change (95 %)")
        rows = [(*row, _change_cell(changes[place])) for row, place in zip(rows, order, strict=True)]
    systems = [outcome.condition.system for outcome in results if isinstance(outcome.condition, ExternalCondition)]
    if not systems:
        return table(header, rows, left=2, last_left=False)
    named = [(system, *row) for system, row in zip(systems, rows, strict=True)]
    return table(("system", *header), named, left=3, last_left=False)


def _change_cell(change: Change | None) -> str:
    """A change of a word error rate, in points, with its interval."""
    if change is None:
        return "-"
    more, low, high = (f"{100 * value:+.1f}" for value in (change.wer, *change.ci95))
    return f"{more} ({low} to {high})"


def _cells(outcome: Result) -> tuple[str, ...]:
    condition = outcome.condition
    low, high = outcome.ci95 or (None, None)
    return (
        condition.task or "-",
        "-" if condition.rates is None else str(condition.rates),
        "clean" if condition.snr_db is None else f"{condition.snr_db:g}",
        "-" if outcome.wer is None else f"{100 * outcome.wer:.1f}",
        "-" if low is None or high is None else f"{100 * low:.1f} - {100 * high:.1f}",
        str(outcome.errors.words),
        str(outcome.clips),
        "-" if outcome.tokens_mean is None else f"{outcome.tokens_mean:.1f}",
        "-" if outcome.tflops_mean is None else gflops(outcome.tflops_mean),
        "-" if outcome.rtf is None else f"{outcome.rtf:.3f}",
    )


def report_failures(results: Sequence[Result]) -> int:
    """List the clips that failed, grouped by reason; returns the exit code."""
    failures = list(dict.fromkeys(failure for outcome in results for failure in outcome.failures))
    if not failures:
        return 0
    clips = len({failure.id for failure in failures})
    note(f"{clips} clip{'s' * (clips > 1)} could not be transcribed under some condition:")
    lines = failure_lines((f"clip {failure.id}", failure.error) for failure in failures)
    for line in lines[:_LISTED]:
        note(line)
    if len(lines) > _LISTED:
        note(f"and {len(lines) - _LISTED} more: the JSON document lists all")
    return SOME_FAILED if any(outcome.clips for outcome in results) else ALL_FAILED


def check_writable(path: Path, *others: Path | None) -> None:
    """Check before the work that a result file can be written.

    Args:
        path: the file.
        others: other files that are read or written.

    Raises:
        MomeError: the folder is missing or not writable, or the path is a folder or one of the others.
    """
    if path.is_dir():
        raise MomeError(f"{path} is a folder: give the name of a file to write")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise MomeError(f"{path} cannot be written: folder {path.parent} is missing or closed to you")
    if any(other is not None and other.resolve() == path.resolve() for other in others):
        raise MomeError(f"{path} is given twice, and would be overwritten: give another file to write")


def quiet() -> None:
    """Turn off the progress bars and warnings of libraries, which are not about the user's work."""
    warnings.simplefilter("ignore")
    import transformers
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns on processors with bfloat16 products
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """Show a progress bar if stderr is a terminal; gives a function ``(done, total)`` that updates it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class FilesProgress:
    """A progress bar over files with the time left, if stderr is a terminal; a context manager.

    Args:
        weights: how long each file takes compared to the others, such as its seconds; None where that is unknown.
    """

    def __init__(self, weights: Sequence[float | None]):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        known = [weight for weight in weights if weight is not None]
        mean = sum(known) / len(known) if known else 1.0
        self._weights = [mean if weight is None else weight for weight in weights]
        self._number, self._before = 0, 0.0
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # it may be a file
            redirect_stderr=False,
            disable=not sys.stderr.isatty(),
            speed_estimate_period=24 * 3600,  # a file may take longer than rich's half minute
        )
        self._task = self._bar.add_task("", total=sum(self._weights))

    def __enter__(self) -> FilesProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """The next file."""
        self._before = sum(self._weights[: self._number])
        self._number += 1
        place = f"{self._number}/{len(self._weights)} {_printable(name, _LONGEST_NAME)}"
        self._bar.update(self._task, description=place, completed=self._before + _STEP)

    def within(self, done: float, total: float) -> None:
        """How much of the present file is done."""
        share = min(done / total, 1.0) if total else 1.0
        self._bar.update(self._task, completed=self._before + share * self._weights[self._number - 1])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The bar is away while the block prints."""
        self._bar.stop()
        yield
        self._bar.start()
