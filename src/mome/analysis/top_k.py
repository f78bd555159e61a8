"""Elasticity in two directions: word error rate by rates and by the number of active experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mome.adapters import MomeAdapterConfig
from mome.analysis.experts import mome_adapter
from mome.analysis.figures import COLUMN, heat_map, panels
from mome.analysis.findings import Findings, Table
from mome.analysis.trials import Progress, failures, trials
from mome.data.manifests import ManifestRow
from mome.decoding import Transcriber
from mome.evaluation.result import Result, change
from mome.rates import Rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("rates", "top_k", "wer", "ci95", "change", "change_ci95", "clips", "tflops_mean", "adapter_active")


def default_numbers(adapter: MomeAdapterConfig) -> list[int]:
    """Powers of two, the number of the training, and all routed experts."""
    powers = [2**power for power in range(adapter.routed_experts.bit_length())]
    return sorted({*powers, adapter.top_k, adapter.routed_experts})


def top_k(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    numbers: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> tuple[Findings, list[Result]]:
    """Measure the word error rate at all ``rates`` with all ``numbers`` of active experts.

    Args:
        transcriber: a model with a MoME adapter.
        rows: the clips.
        rates: the rates.
        numbers: numbers of active experts; that of the training, which changes are told from, joins them.
        seed: seed of the intervals.
        batch_size: clips transcribed together.
        progress: called after every batch.

    Returns:
        The findings, and all results for a report of clips that failed.

    Raises:
        MomeError: the model has no MoME adapter.
    """
    adapter = mome_adapter(transcriber.model.config, transcriber.name)
    numbers = sorted({*numbers, adapter.top_k})
    results: dict[tuple[Rates, int], Result] = {}
    with trials(rows, rates, len(numbers), seed=seed, batch_size=batch_size, progress=progress) as run:
        for number in numbers:
            for pair, result in zip(rates, run.run(transcriber, rates, active_experts=number), strict=True):
                results[pair, number] = result
    cells = []
    for (pair, number), result in results.items():
        more = change([(result, results[pair, adapter.top_k])], seed)
        active = replace(adapter, top_k=number).count(transcriber.model.config.text_config).active
        cells.append(
            {
                **{**result.to_json(), "top_k": number, "adapter_active": active},
                "change": None if more is None else more.wer,
                "change_ci95": None if more is None else list(more.ci95),
            }
        )
    table = Table(COLUMNS, [[_flat(cell[name]) for name in COLUMNS] for cell in cells])
    document = {
        "trained_top_k": adapter.top_k,
        "routed_experts": adapter.routed_experts,
        "results": cells,
        "failures": failures(results.values()),
    }
    findings = Findings("top-k", document, {"top-k": table}, {"top-k": lambda: draw(cells, adapter.top_k)})
    return findings, list(results.values())


def _flat(value: Any) -> object:
    """A cell of the table: the ends of an interval with a space between, nothing for what is not known."""
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else value


def draw(cells: Sequence[dict[str, Any]], trained: int) -> Figure:
    """A heat map of the word error rate in per cent, rates by numbers of experts, that of the training marked."""
    rates, numbers = (list(dict.fromkeys(cell[name] for cell in cells)) for name in ("rates", "top_k"))
    values = np.full((len(rates), len(numbers)), np.nan)
    for cell in cells:
        if cell["wer"] is not None:
            values[rates.index(cell["rates"]), numbers.index(cell["top_k"])] = 100 * cell["wer"]
    figure, axes = panels(width=COLUMN, height=0.9 + 0.26 * max(len(rates), 4))
    names = [f"{number}*" if number == trained else str(number) for number in numbers]
    heat_map(axes[0, 0], values, rows=rates, columns=names, label="WER, %")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value <= middle else "black"
            axes[0, 0].text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=7)
    axes[0, 0].set_xlabel("active routed experts (* in training)")
    axes[0, 0].set_ylabel("rates (audio, video)")
    return figure
