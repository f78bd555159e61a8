"""``mome analyze top-k``: word error rate by rates and by the number of active experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.evaluating import interval, percent, read_rows
from mome.cli.analyze.options import Batch, ChosenRates, Limit, Model, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, check_top_k, choose_rates, load_model, read_config
from mome.cli.output import gflops, progress, quiet, report_failures, table


@analyze_app.command("top-k", cls=Command)
def top_k(
    model: Model,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    numbers: Annotated[
        list[int] | None,
        typer.Option(
            "--top-k",
            min=1,
            metavar="K",
            help="Active routed experts. Repeatable. Default: powers of two, and all; the number of the training "
            "is always among them.",
        ),
    ] = None,
    limit: Limit = 60,
    batch: Batch = 8,
    seed: Seed = 0,
    json: Json = False,
    out: Folder = None,
) -> None:
    """Measure the word error rate by rates and by the number of active experts.

    The change is that to the number of the training, with the 95 % interval of the paired difference over clips drawn
    with replacement. The operations are those of the active experts.

    Example: mome analyze top-k mome-tiny --data grid.csv --split test --out figures
    """
    check_folder(out)
    given = parse_rates(rates)
    quiet()
    from mome.analysis.experts import mome_adapter
    from mome.analysis.top_k import default_numbers
    from mome.analysis.top_k import top_k as measure

    config = read_config(model)
    adapter = mome_adapter(config, model)
    for number in numbers or ():
        check_top_k(number, model, config)
    chosen = choose_rates(config.rate_set, given, [])
    rows = read_rows(data, split)[:limit]
    transcriber = load_model(model)
    tried = numbers or default_numbers(adapter)
    with progress("transcribing") as bar:
        findings, results = measure(transcriber, rows, chosen, tried, seed=seed, batch_size=batch, progress=bar)
    text = readable(findings.document["results"])
    show(findings, text, out=out, json=json, model=model, data=str(data), seed=seed)
    raise typer.Exit(report_failures(results))


def readable(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as a table, in per cent and points."""
    rows = [
        (
            cell["rates"],
            str(cell["top_k"]),
            percent(cell["wer"]),
            interval(cell["ci95"]),
            "-" if cell["change"] is None else f"{100 * cell['change']:+.1f}",
            interval(cell["change_ci95"], signed=True),
            str(cell["clips"]),
            "-" if cell["tflops_mean"] is None else gflops(cell["tflops_mean"]),
            f"{cell['adapter_active']:,}",
        )
        for pair in dict.fromkeys(cell["rates"] for cell in cells)
        for cell in cells
        if cell["rates"] == pair
    ]
    header = ("rates", "top-k", "WER %", "95 %", "change", "95 %", "clips", "GFLOPs", "active adapter")
    return table(header, rows, last_left=False)
