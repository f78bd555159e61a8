"""Results as a table: those of an evaluation, and those of transcripts made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mome.cli.output import gflops, table
from mome.rates import TASKS

if TYPE_CHECKING:
    from mome.evaluation.result import Result

_HEADER = ("task", "rates", "SNR dB", "WER %", "95 % interval", "words", "clips", "tokens", "GFLOPs", "RTF")


def readable(results: Sequence[Result]) -> str:
    """One line per result, task by task, with the system's name if that is not the model evaluated."""
    from mome.evaluation.result import Group

    ranks = {task: rank for rank, task in enumerate((*TASKS, None))}
    results = sorted(results, key=lambda one: ranks[one.condition.task])
    systems = [one.condition.system for one in results if isinstance(one.condition, Group)]
    rows = [_cells(one) for one in results]
    if not systems:
        return table(_HEADER, rows, left=2, last_left=False)
    named = [(system, *row) for system, row in zip(systems, rows, strict=True)]
    return table(("system", *_HEADER), named, left=3, last_left=False)


def _cells(one: Result) -> tuple[str, ...]:
    condition = one.condition
    low, high = one.ci95 or (None, None)
    return (
        condition.task or "-",
        "-" if condition.rates is None else str(condition.rates),
        "clean" if condition.snr_db is None else f"{condition.snr_db:g}",
        "-" if one.wer is None else f"{100 * one.wer:.1f}",
        "-" if low is None or high is None else f"{100 * low:.1f} - {100 * high:.1f}",
        str(one.errors.words),
        str(one.clips),
        "-" if one.tokens_mean is None else f"{one.tokens_mean:.1f}",
        "-" if one.tflops_mean is None else gflops(one.tflops_mean),
        "-" if one.rtf is None else f"{one.rtf:.3f}",
    )
