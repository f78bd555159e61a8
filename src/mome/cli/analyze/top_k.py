"""``mome analyze top-k``: word error rate by rates and by the number of active experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.options import Batch, ChosenRates, Limit, Model, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, check_top_k, load_model, read_config
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
    from mome.analysis.top_k import default_numbers, expert_adapter
    from mome.analysis.top_k import top_k as measure
    from mome.data.manifests import read_manifest
    from mome.data.stores import ClipStore

    config = read_config(model)
    for number in numbers or ():
        check_top_k(number, model, config)
    chosen = [config.rate_set.check(pair) for pair in given] or config.rate_set.main_rates()
    rows = read_manifest(data, split, silence=True)[:limit]
    transcriber = load_model(model)
    numbers = numbers or default_numbers(expert_adapter(transcriber, model))
    audio, video = (any(getattr(pair, name) is not None for pair in chosen) for name in ("audio", "video"))
    with TemporaryDirectory() as folder, progress("transcribing") as bar:
        store = ClipStore(Path(folder), audio=audio, video=video)
        findings, results = measure(
            transcriber, rows, chosen, numbers, seed=seed, progress=bar, batch_size=batch, store=store
        )
    text = readable(findings.document["results"])
    show(findings, text, out=out, json=json, model=model, data=str(data), seed=seed)
    raise typer.Exit(report_failures(results))


def readable(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as a table, in per cent and points."""

    def percent(value: float | None, low_high: Sequence[float] | None, sign: str = "") -> str:
        if value is None or low_high is None:
            return "-"
        low, high = low_high
        return f"{100 * value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"

    rows = [
        (
            cell["rates"],
            str(cell["top_k"]),
            percent(cell["wer"], cell["ci95"]),
            percent(cell["change"], cell["change_ci95"], "+"),
            str(cell["clips"]),
            "-" if cell["tflops_mean"] is None else gflops(cell["tflops_mean"]),
            f"{cell['adapter_active']:,}",
        )
        for pair in dict.fromkeys(cell["rates"] for cell in cells)
        for cell in cells
        if cell["rates"] == pair
    ]
    header = ("rates", "top-k", "WER % (95 %)", "change (95 %)", "clips", "GFLOPs", "active adapter")
    return table(header, rows, last_left=False)
