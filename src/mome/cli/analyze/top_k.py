"""``mome analyze top-k``: word error rate by rates and by the number of active experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from mome.cli.analyze import analyze_app
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, check_top_k, load_model, read_config
from mome.cli.output import gflops, progress, quiet, table
from mome.rates import Rates


@analyze_app.command("top-k", cls=Command)
def top_k(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model with MoME experts.", show_default=False)],
    data: Data,
    split: Split = None,
    rates: Annotated[
        list[str] | None,
        typer.Option(metavar="A,V", help="Audio and video rate. Repeatable. Default: all of the model's main task."),
    ] = None,
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
    limit: Annotated[int, typer.Option(min=1, help="Use only this number of clips, from the first on.")] = 60,
    batch: Annotated[int, typer.Option(min=1, help="Clips transcribed together.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Draws the intervals.")] = 0,
    json: Json = False,
    out: Folder = None,
) -> None:
    """Measure the word error rate by rates and by the number of active experts.

    The change is that to the number of the training, with the 95 % interval of the paired difference over clips drawn
    with replacement. The operations are those of the active experts.

    Example: mome analyze top-k mome-tiny --data grid.csv --split test --out figures
    """
    check_folder(out)
    given = list(dict.fromkeys(map(Rates.parse, rates or ())))
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
        findings = measure(transcriber, rows, chosen, numbers, seed=seed, progress=bar, batch_size=batch, store=store)
    text = readable(findings.document["results"])
    show(findings, text, out=out, json=json, model=model, data=str(data), seed=seed)


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
