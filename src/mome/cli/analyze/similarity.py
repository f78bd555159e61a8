"""``mome analyze similarity``: how alike tokens of different rates are, and audio and video."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.options import Batch, ChosenRates, Limit, Model, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, choose_rates, load_model, read_config
from mome.cli.output import progress, quiet, table


@analyze_app.command(cls=Command)
def similarity(
    model: Model,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Compare hidden states after this decoder layer; 0: the connector's output. Repeatable. Default: 0.",
        ),
    ] = None,
    limit: Limit = 32,
    batch: Batch = 8,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Compare the tokens of different rates, and audio with video, by linear correlation and linear CKA.

    Tokens are paired by time: each of the finer ones with the coarser one that covers its middle. The correlation is
    that of two tokens' elements, a mean over the pairs. CKA compares how tokens lie to each other, whatever their
    directions mean; it is estimated without bias. In brackets: the same with each clip's tokens paired with those of
    the next clip.

    Example: mome analyze similarity mome-tiny --data grid.csv --split test --layer 0 --layer 2 --out similarity/
    """
    given = parse_rates(rates)
    check_folder(out)
    quiet()
    from mome.analysis.similarity import analyze_similarity, check_layers
    from mome.data.manifests import read_manifest

    rows = read_manifest(data, split)[:limit]
    config, layers = read_config(model), list(dict.fromkeys(layer or [0]))
    check_layers(config, layers)
    chosen = choose_rates(config.rate_set, given, [])
    transcriber = load_model(model)
    with progress("reading clips") as bar:
        findings = analyze_similarity(transcriber, rows, chosen, layers=layers, batch_size=batch, progress=bar)
    show(findings, _text(findings.document), out=out, json=json, model=model, data=str(data), seed=0)


def _text(document: dict[str, Any]) -> str:
    names = document["tokens"]
    matrices = {(one["layer"], one["measure"], one["clips"]): one["values"] for one in document["matrices"]}
    parts = []
    for layer, measure in dict.fromkeys(key[:2] for key in matrices):
        lines = [
            (name, *(f"{_figure(value)} ({_figure(other)})" for value, other in zip(row, others, strict=True)))
            for name, row, others in zip(
                names, matrices[layer, measure, "same"], matrices[layer, measure, "mismatched"], strict=True
            )
        ]
        title = f"{measure.replace('cka', 'CKA')}, {'connector' if layer == 0 else f'layer {layer}'}"
        parts.append(table((title, *names), lines, last_left=False))
    return "\n\n".join(parts)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
