"""``mome analyze cost``: what a rate costs and buys."""

from __future__ import annotations

from typing import Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.evaluating import interval, load_models, percent, read_rows, short_names
from mome.cli.analyze.options import Batch, ChosenRates, ChosenTasks, Limit, Models, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, choose_rates, parse_task, read_config
from mome.cli.output import progress, quiet, report_failures, table


@analyze_app.command("cost", cls=Command)
def cost(
    models: Models,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    task: ChosenTasks = None,
    limit: Limit = 30,
    batch: Batch = 1,
    seed: Seed = 0,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Word error rate against tokens, operations and measured seconds, at each rate of one or several models.

    Encoders are apart from connector and language model, which the rate is about. Seconds are medians over clips
    on this machine, which the document names. By default all rates of each model's main task.

    Example: mome analyze cost mome-tiny --data grid.csv --split test --out cost
    """
    given = parse_rates(rates)
    tasks = [parse_task(text) for text in task or ()]
    check_folder(out)
    names = short_names(models)
    quiet()
    from mome.analysis.cost import measure_cost

    rows = read_rows(data, split)[:limit]
    chosen = {
        name: choose_rates(read_config(model).rate_set, given, tasks) for name, model in zip(names, models, strict=True)
    }
    loaded = load_models(models)
    with progress("transcribing") as bar:
        findings, results = measure_cost(loaded, rows, chosen, seed=seed, batch_size=batch, progress=bar)
    show(findings, _text(findings.document), out=out, json=json, model=" ".join(models), data=str(data), seed=seed)
    raise typer.Exit(report_failures(results))


def _text(document: dict[str, Any]) -> str:
    header = ("model", "task", "rates", "WER %", "95 % interval", "tokens", "GFLOPs enc.", "rest", "ms enc.", "rest")
    lines = []
    for row in document["results"]:
        costs = ["encoder_tflops", "language_tflops", "encoder_seconds", "language_seconds"]
        cells = ["-" if row[name] is None else f"{1000 * row[name]:.3g}" for name in costs]
        tokens = "-" if row["tokens"] is None else f"{row['tokens']:.1f}"
        ends = interval((row["ci_low"], row["ci_high"]))
        lines.append((row["model"], row["task"], row["rates"], percent(row["wer"]), ends, tokens, *cells))
    machine = document["machine"]
    return f"{table(header, lines, left=3, last_left=False)}\n{machine['cpu']}, {machine['threads']} threads of " + (
        f"PyTorch, models on {machine['device']}, {document['batch']} at a time"
    )
