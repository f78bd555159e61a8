"""``mome analyze rates``: word error rates at trained and untrained rates."""

from __future__ import annotations

from typing import Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.evaluating import interval, percent, read_rows
from mome.cli.analyze.options import Batch, ChosenRates, Limit, Model, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, load_model
from mome.cli.output import progress, quiet, report_failures, table


@analyze_app.command("rates", cls=Command)
def rates(
    model: Model,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    limit: Limit = 30,
    batch: Batch = 8,
    seed: Seed = 0,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Word error rate at trained and untrained rates, and with average pooling at inference.

    An untrained rate takes the projector of the nearest trained rate: nearest in the ratio, the finer of two. The
    control averages the tokens of the finest trained rate further, where the rate is a multiple of that. By default
    trained rates of the main task and others between and beyond them.

    Example: mome analyze rates mome-tiny --data grid.csv --split test --rates 4,2 --rates 8,2 --out rates
    """
    given = parse_rates(rates)
    check_folder(out)
    quiet()
    from mome.analysis.rates import default_rates, measure_rates

    rows = read_rows(data, split)[:limit]
    transcriber = load_model(model)
    asked = given or default_rates(transcriber.model.rate_set)
    with progress("transcribing") as bar:
        findings, results = measure_rates(transcriber, rows, asked, seed=seed, batch_size=batch, progress=bar)
    show(findings, _text(findings.document), out=out, json=json, model=model, data=str(data), seed=seed)
    raise typer.Exit(report_failures(results))


def _text(document: dict[str, Any]) -> str:
    ways = {"trained": "trained", "nearest": "projector of", "pooled": "averaged from"}
    lines = []
    for row in document["results"]:
        way = ways[row["way"]] + (f" {row['fed_as']}" if row["way"] != "trained" else "")
        tokens = "-" if row["tokens"] is None else f"{row['tokens']:.1f}"
        ends = interval((row["ci_low"], row["ci_high"]))
        lines.append((row["task"], row["rates"], way, percent(row["wer"]), ends, str(row["clips"]), tokens))
    return table(("task", "rates", "tokens are", "WER %", "95 % interval", "clips", "tokens"), lines, left=3)
