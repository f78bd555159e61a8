"""``mome analyze experts``: which experts fire, and whether they are the same at all rates."""

from __future__ import annotations

from typing import Any

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.options import Batch, ChosenRates, Limit, Model, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, choose_rates, load_model, read_config
from mome.cli.output import progress, quiet, table

_HEADER = ("tokens", "measure", "between rates", "range", "chance", "95 %", "other layers", "above chance")


@analyze_app.command(cls=Command)
def experts(
    model: Model,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    limit: Limit = 32,
    batch: Batch = 8,
    out: Folder = None,
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Count which experts of a MoME adapter fire, by layer, rates and kind of token, and test whether rates agree.

    The model reads the clips with their transcripts. Loads of a layer's experts are compared between rates by rank
    correlation (Spearman), by overlap of the most used experts (Jaccard) and by cosine, with routing whose experts
    are renamed at random (chance) and with other layers. The last column says in how many layers the agreement is
    above the 97.5th percentile of chance.

    Example: mome analyze experts mome-tiny --data grid.csv --split test --out experts/
    """
    given = parse_rates(rates)
    check_folder(out)
    quiet()
    from mome.analysis.experts import analyze_experts, mome_adapter
    from mome.data.manifests import read_manifest

    rows = read_manifest(data, split)[:limit]
    config = read_config(model)
    mome_adapter(config, model)
    chosen = choose_rates(config.rate_set, given, [])
    transcriber = load_model(model)
    with progress("reading clips") as bar:
        findings = analyze_experts(transcriber, rows, chosen, batch_size=batch, seed=seed, progress=bar)
    text = _text(findings.document)
    show(findings, text, out=out, json=json, model=model, data=str(data), seed=seed)


def _text(document: dict[str, Any]) -> str:
    lines = []
    for entry in document["agreement"]:
        mean, low, high, chance, chance_low, chance_high, other = (
            "-" if entry[name] is None else f"{entry[name]:.2f}"
            for name in ("mean", "min", "max", "chance_mean", "chance_low", "chance_high", "other_layers")
        )
        above = f"{entry['layers_above_chance']} of {len(entry['layers'])} layers"
        ranges = (mean, f"{low} - {high}", chance, f"{chance_low} - {chance_high}")
        lines.append((entry["kind"], entry["measure"], *ranges, other, above))
    if not lines:
        return "one pair of rates: there is nothing to compare; the frequencies are in --json and --out"
    return table(_HEADER, lines, left=2, last_left=False)
