"""``mome analyze attention``: where language models attend, and their sinks."""

from __future__ import annotations

from typing import Annotated

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.options import Batch, ChosenRates, Limit, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, choose_rates, load_model, read_config
from mome.cli.output import progress, quiet, table


@analyze_app.command(cls=Command)
def attention(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Model folders, Hugging Face hub ids such as owner/name, or the bundled mome-tiny.",
            show_default=False,
        ),
    ],
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    limit: Limit = 32,
    batch: Batch = 8,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Measure by layer how much attention goes to audio, video, prompt, transcript and the first token.

    The models read the clips with their transcripts. The table has the attention of the transcript's tokens, as means
    over heads and layers, the mean squared cosine between the first token and the others before the transcript, which
    the decorrelation loss lowers, and the largest activations. Give models with and without that loss to compare them.

    Example: mome analyze attention with-loss/ without-loss/ --data grid.csv --split test --out attention/
    """
    given = parse_rates(rates)
    check_folder(out)
    quiet()
    from mome.analysis.attention import SINKS, Attention, attend, attention_findings
    from mome.data.manifests import read_manifest
    from mome.rates import Rates

    rows = read_manifest(data, split)[:limit]
    chosen = {name: choose_rates(read_config(name).rate_set, given, []) for name in models}
    found: dict[str, dict[Rates, Attention]] = {}
    for name, pairs in chosen.items():
        transcriber = load_model(name)
        with progress(f"reading clips with {name}") as bar:
            found[name] = attend(transcriber, rows, pairs, batch, bar)
    findings = attention_findings(found)
    lines: list[tuple[str, ...]] = []
    kinds: list[str] = []
    for run in findings.document["models"]:
        kinds = list(run["uniform"]["transcript"])
        layers = run["layers"]
        shares = [sum(layer["attention"]["transcript"][kind] for layer in layers) / len(layers) for kind in kinds]
        sinks = [sum(layer[SINKS[0]] for layer in layers) / len(layers)]
        sinks += [max(layer[name] for layer in layers) for name in SINKS[1:]]
        shown = [f"{share:.2f}" for share in shares] + [f"{sink:.3g}" for sink in sinks]
        lines.append((run["model"], run["rates"], *shown))
    header = ("model", "rates", *kinds, "cos² to first", "max |h| of first", "of others")
    text = table(header, lines, left=2, last_left=False)
    show(findings, text, out=out, json=json, model=" ".join(found), data=str(data), seed=0)
