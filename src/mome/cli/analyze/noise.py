"""``mome analyze noise``: how noise bites, and a missing or broken modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mome.cli.analyze.app import analyze_app
from mome.cli.analyze.evaluating import interval, load_models, percent, read_rows, short_names
from mome.cli.analyze.options import Batch, ChosenRates, ChosenTasks, Limit, Models, Seed, parse_rates
from mome.cli.analyze.output import Folder, check_folder, show
from mome.cli.options import Command, Data, Json, Split, choose_rates, parse_level, parse_task, read_config
from mome.cli.output import progress, quiet, report_failures, table
from mome.errors import MomeError
from mome.rates import Rates, RateSet

_NONE = "none"


@analyze_app.command("noise", cls=Command)
def noise(
    models: Models,
    data: Data,
    split: Split = None,
    rates: ChosenRates = None,
    task: ChosenTasks = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="babble, speech-shaped (both made of the manifest's own speech), white, a recording, or none. "
            "Repeatable. Default: the three that are made.",
            show_default=False,
        ),
    ] = None,
    snr: Annotated[
        list[str] | None,
        typer.Option(metavar="DB", help="Speech to noise in dB. Repeatable. Default: -5, 0, 5 and 10."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=AMOUNT",
            help="frozen, dropped, occluded or silent, with a share from 0 to 1; blurred, in pixels; shifted, by how "
            "many ms the lips are late; or none. Repeatable. Default: some amounts of each.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 20,
    batch: Batch = 8,
    seed: Seed = 0,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Word error rate in noise and with faults of lips and sound, against clean clips.

    Differences are in points of word error rate, with the 95 % interval over clips drawn for both together. By default
    each task at its finest rates.

    Example: mome analyze noise mome-tiny --data grid.csv --split test --noise babble --fault shifted=-80 --out noise
    """
    given = parse_rates(rates)
    tasks = [parse_task(text) for text in task or ()]
    levels = [parse_level(text) for text in snr or ["-5", "0", "5", "10"]]
    ratios = [level for level in dict.fromkeys(levels) if level is not None]  # clean is always measured
    check_folder(out)
    names = short_names(models)
    quiet()
    from mome.analysis.noise import FAULTS, MADE, make_noise, measure_noise
    from mome.clip import LARGEST_SNR
    from mome.media.faults import Fault
    from mome.media.noise import load_noise

    for ratio in ratios:
        if not abs(ratio) <= LARGEST_SNR:
            raise MomeError(f"--snr {ratio:g} is not possible: give -{LARGEST_SNR:g} to {LARGEST_SNR:g} dB")
    faults = FAULTS if fault is None else [Fault.parse(text) for text in dict.fromkeys(fault) if text != _NONE]
    wanted = [name for name in dict.fromkeys(noise or MADE) if name != _NONE]
    files = [name for name in wanted if name not in MADE]
    recordings = {name: load_noise(file) for name, file in zip(short_names(files), files, strict=True)}
    rows = read_rows(data, split)
    chosen = {}
    for name, model in zip(names, models, strict=True):
        rate_set = read_config(model).rate_set
        chosen[name] = choose_rates(rate_set, given, tasks) if given else _finest(rate_set, tasks or rate_set.tasks)
    made = make_noise([name for name in wanted if name in MADE], rows[limit:] or rows, seed)
    with progress("transcribing") as bar:
        findings, results = measure_noise(
            load_models(models),
            rows[:limit],
            chosen,
            noises={**made, **recordings} if ratios else {},
            snrs=ratios,
            faults=faults,
            seed=seed,
            batch_size=batch,
            progress=bar,
        )
    show(findings, _text(findings.document), out=out, json=json, model=" ".join(models), data=str(data), seed=seed)
    raise typer.Exit(report_failures(results))


def _finest(rate_set: RateSet, tasks: Sequence[Any]) -> list[Rates]:
    """The finest rates of each task; raises :class:`MomeError` if the model cannot do one."""
    return [choose_rates(rate_set, [], [task])[0] for task in tasks]


def _text(document: dict[str, Any]) -> str:
    header = ("model", "task", "rates", "clips are", "amount", "WER %", "95 % interval", "change", "95 % interval")
    lines = []
    for row in (*document["noise"], *(row for row in document["faults"] if row["fault"] != "clean")):
        amount = row["snr_db"] if "snr_db" in row else row["amount"]
        unit = " dB" if "snr_db" in row else ""
        change = "-" if row["change"] is None else f"{100 * row['change']:+.1f}"
        ends = (row["ci_low"], row["ci_high"]), (row["change_low"], row["change_high"])
        lines.append(
            (
                *(row["model"], row["task"], row["rates"], row.get("noise") or row["fault"]),
                "-" if amount is None else f"{amount:g}{unit}",
                *(percent(row["wer"]), interval(ends[0]), change, interval(ends[1], signed=True)),
            )
        )
    return table(header, lines, left=4, last_left=False)
