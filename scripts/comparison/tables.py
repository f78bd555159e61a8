"""Write the tables of docs/results.md from results/comparison, real*, grid-real, and those that it quotes.

    python scripts/comparison/tables.py

Each table stands between two comments in the page and is replaced; the text around it stays. Transcripts of any other
system join the tables once they are scored into results/outside:

    mome score HYP.csv --data MANIFEST --split test --out results/outside/NAME.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from measured import LOSS, Cell, Measured
from mome.model.cost import cost_report, parameter_counts
from mome.rates import Rates
from mome.training import load_config
from published import Published, table
from real import EQUAL, GRID, LEARNING_RATES, ROUTING, SPEECH, UNALIGNED, Setting, validation_loss
from runs import AUDIO_RATES, FINE_AUDIO_RATES, PAIRS, VIDEO_RATES

AVSR_RATES = [f"{audio},{video}" for audio, video in PAIRS]
ASR_RATES = [f"{rate},-" for rate in AUDIO_RATES]
FINE_RATES = [f"{rate},-" for rate in FINE_AUDIO_RATES]
VSR_RATES = [f"-,{rate}" for rate in VIDEO_RATES]
LEVELS = [None, 7.5, 5.0, 2.5, 0.0, -5.0]
CONTROL = "projectors-only"
BASELINE = "llama-mtsk-ms"
MATRYOSHKA = [BASELINE, "llama-mtsk-ss", "llama-mtsk-mss", "mome-mhsa", "mome-ffn", "mome-layer"]
SMOP = ["llama-smop", "llama-smop-jedr", "llama-smop-dedr"]
QUERIES = ["mqt", "mqt, 100 epochs", "mms-llama", "mms-llama, 100 epochs"]
OMNI = ["omni-avsr-s", "omni-avsr-t", "omni-avsr-st"]
AVSR_SYSTEMS = [CONTROL, "llama-avsr", "mome-mhsa-independent", *SMOP, "m3", *QUERIES, *MATRYOSHKA]


def wer(cell: Cell | None) -> str:
    """Mean and interval."""
    if cell is None:
        return "–"
    (low, high), digits = cell.interval, 1 if cell.scale > 1 else 3
    return f"{cell.mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def by_rates(
    measured: Measured, systems: list[str], rates: list[str], level: float | str | None = None, outside: bool = False
) -> str:
    """Systems by rates, with the adapter's size; at the end outside systems, which may have no rates."""
    rows = []
    task = Rates.parse(rates[0]).task
    if outside and any(measured.cell(system, task, level) for system in measured.outside):
        rates = [*rates, task]
    for system in [*systems, *(measured.outside if outside else ())]:
        cells = [measured.cell(system, rate, level) for rate in rates]
        if any(cells):
            counts = measured.parameters.get(system)
            size = f"{counts['adapter_active'] / 1e3:.1f}" if counts else "–"
            seeds = str(measured.seeds(system) or "–")
            rows.append([system, size, seeds, *map(wer, cells)])
    columns = ["no rates" if rate == task else rate for rate in rates]
    return table(["system", "active adapter, thousands", "seeds", *columns], rows)


def by_noise(measured: Measured, systems: list[str], rates: str) -> str:
    """Systems by noise level at one pair of rates."""
    rows = []
    for system in [*systems, *measured.outside]:
        cells = [measured.cell(system, rates, level) for level in LEVELS]
        if not any(cells):  # an outside system may have none
            cells = [measured.cell(system, Rates.parse(rates).task, level) for level in LEVELS]
        if any(cells):
            rows.append([system, *map(wer, cells)])
    return table(["system", *("clean" if level is None else f"{level:g} dB" for level in LEVELS)], rows)


def differences(
    measured: Measured, pairs: Iterable[tuple[str, str]], rates: list[str], level: float | str | None = None
) -> str:
    """Differences between pairs of systems by rates, at the same clips and seeds."""
    rows = []
    for system, other in pairs:
        cells, seeds = [], []
        for rate in rates:
            cell, other_cell = (measured.cell(name, rate, level) for name in (system, other))
            difference = cell.difference(other_cell) if cell and other_cell else None
            cells.append("–" if difference is None else _signed(*difference, digits=3 if level == LOSS else 1))
            if cell and other_cell and difference:
                seeds.append(len(cell.common(other_cell)))
        if seeds:
            rows.append([system, other, str(min(seeds)), *cells])
    return table(["system", "compared with", "seeds", *rates], rows)


def to_baseline(systems: list[str], end: str = "") -> list[tuple[str, str]]:
    """Pairs of each system with the baseline, one LoRA for all rates; ``end`` is appended to all names."""
    return [(system + end, BASELINE + end) for system in systems]


def to_control(systems: list[str], end: str = "") -> list[tuple[str, str]]:
    """Pairs of each system with the one that has no adapter."""
    return [(system + end, CONTROL + end) for system in systems]


def _signed(change: float, low: float, high: float, digits: int = 1) -> str:
    text = f"{change:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def cost(measured: Measured, seconds: dict[str, Any], systems: list[str], rates: list[str]) -> str:
    """Tokens, operations and time of one clip."""
    times = {(row["system"], row["rates"]): row for row in seconds["transcribing"]}
    rows = []
    for system in systems:
        for rate in rates:
            cell, time = measured.cell(system, rate), times.get((system, rate))
            if cell is not None and cell.rows and time is not None:
                row = cell.rows[0]
                figures = [f"{row['tokens_mean']:.1f}", f"{1e3 * row['tflops_mean']:.2f}"]
                spent = [f"{1e3 * time[part]['median']:.0f}" for part in ("encode", "decode")]
                rows.append([system, rate, *figures, *spent])
    return table(["system", "rates", "tokens", "GFLOPs", "ms, encoders", "ms, language model"], rows)


def sizes(measured: Measured, seconds: dict[str, Any], systems: list[str]) -> str:
    """Parameters, and the time of a step of training."""
    steps = {row["system"]: row["seconds_per_step"] for row in seconds["training"]}
    rows = []
    for system in systems:
        if system in measured.parameters:
            counts = measured.parameters[system]
            names = ("adapter_total", "adapter_active", "projectors_total", "projectors_active")
            step = f"{1e3 * steps[system]:.0f}" if system in steps else "–"
            rows.append([system, *(f"{counts[name] / 1e3:.1f}" for name in names), step])
    head = ["adapter", "adapter, active", "connector", "connector, active"]
    return table(["system", *(f"{name}, thousands" for name in head), "ms for a step of training"], rows)


def beside(measured: Measured, published: Published) -> str:
    """The published AVSR figures, each system's beside ours, with the parameters that the recipes count."""
    rows = [["no adapter", "GRID, ours", "–", "–", *map(wer, _cells(measured, CONTROL))]]
    for method, *figures in published.rows("mome-avsr"):
        system, *overrides = COMPARED[method]
        for corpus, (active, *errors) in zip(("lrs2", "lrs3"), (figures[:5], figures[5:]), strict=True):
            counted = parameter_counts(load_config(f"{system}-{corpus}", overrides)).adapter_active
            rows.append([method, f"{corpus.upper()}, quoted", active, f"{counted / 1e6:.1f}M", *errors])
        if not overrides:
            counted = measured.parameters[system]["adapter_active"]
            rows.append([method, "GRID, ours", "–", f"{counted / 1e6:.3f}M", *map(wer, _cells(measured, system))])
    head = ["method", "corpus", "active, quoted", "active, counted by our recipe", *AVSR_RATES]
    return f"{published.mark('mome-avsr')}\n\n{table(head, rows)}"


def _cells(measured: Measured, system: str) -> Iterator[Cell | None]:
    return (measured.cell(system, rates) for rates in AVSR_RATES)


def beside_noise(measured: Measured, published: Published) -> str:
    """The published error rates in noise, with ours."""
    ours = (
        [f"ours, GRID at {rates}: {system}", *(wer(measured.cell(system, rates, level)) for level in LEVELS[1:])]
        for rates in (AVSR_RATES[0], AVSR_RATES[-1])
        for system in (CONTROL, "llama-avsr", BASELINE, "mome-layer")
    )
    return published.quoted("mome-noise", ours)


def beside_inference(measured: Measured, published: Published) -> str:
    """The published error rates of pooling at inference, with ours."""
    ours = []
    for system in INFERENCE_ASR:
        cells = [measured.cell(system, rate) for rate in FINE_RATES]
        if any(cells):
            ours.append([f"ours, GRID: {system}", *map(wer, cells)])
    return published.quoted("mtsk-inference", ours)


def beside_omni(measured: Measured, published: Published) -> str:
    """The published error rates of one model for three tasks, with ours."""
    rows = []
    for system in ("llama-avsr", BASELINE, *OMNI):
        cells = []
        for rate in ("4,-", "16,-", "-,2", "-,5", *AVSR_RATES):
            task = Rates.parse(rate).task
            name = system if system in OMNI or task == "avsr" else f"{system}-{task}"
            cells.append(wer(measured.cell(name, rate)))
        rows.append([f"ours, GRID: {system}", *cells, "–"])
    return published.quoted("omni", rows)


def beside_cost(_: Measured, published: Published) -> str:
    """The published tokens and operations of ten seconds of speech, with those that our recipe counts."""
    report = cost_report(load_config("llama-mtsk-ms-8b-lrs3"), 10.0)
    counted = {row["rates"]: row for row in report["cost"]} | {"1,1": report["uncompressed"][0]}
    rows = [
        [rates, tokens, str(counted[rates]["tokens"]), tflops, f"{counted[rates]['parts']['prefill']:.2f}"]
        for rates, tokens, tflops in published.rows("mtsk-cost")
    ]
    head = ["rates", "tokens, quoted", "tokens, ours", "TFLOPs, quoted", "TFLOPs, ours"]
    return f"{published.mark('mtsk-cost')}\n\n{table(head, rows)}"


def of_task(systems: list[str], task: str) -> list[str]:
    """Names of the systems that were trained for one task alone."""
    return [f"{system}-{task}" for system in systems]


ASR, VSR = (of_task([CONTROL, "llama-avsr", *MATRYOSHKA], task) for task in ("asr", "vsr"))
OTHERS = [name for name in AVSR_SYSTEMS if name != BASELINE] + OMNI
INFERENCE = ["average-pooling-at-inference", CONTROL, "m3", BASELINE, "mome-layer"]
FINE = ", 2 to 10"
INFERENCE_ASR = ["average-pooling-at-inference-asr", CONTROL + "-asr" + FINE, BASELINE + "-asr" + FINE]
STACKED = [(f"{system}, stacking", system) for system in ("llama-avsr", BASELINE)]
STACKING = ["llama-avsr", "llama-avsr, stacking", BASELINE, f"{BASELINE}, stacking"]
LARGE = [BASELINE, CONTROL, "mome-layer", "m3", "mqt"]
MORE_CLIPS = ", 800 clips"
COSTLY = ["average-pooling-at-inference", *AVSR_SYSTEMS, *OMNI]
TABLES: dict[str, Callable[[Measured, dict[str, Any]], str]] = {
    "avsr": lambda m, _: by_rates(m, AVSR_SYSTEMS, [*AVSR_RATES, "16,8"], outside=True),
    "avsr-0db": lambda m, _: by_rates(m, AVSR_SYSTEMS, [*AVSR_RATES, "16,8"], 0.0, outside=True),
    "differences": lambda m, _: differences(m, to_baseline(OTHERS), AVSR_RATES),
    "differences-0db": lambda m, _: differences(m, to_baseline(OTHERS), AVSR_RATES, 0.0),
    "smop": lambda m, _: differences(m, [(system, "llama-avsr") for system in SMOP], [AVSR_RATES[0], AVSR_RATES[-1]]),
    "noise-fine": lambda m, _: by_noise(m, [*AVSR_SYSTEMS, *OMNI], "4,2"),
    "noise-coarse": lambda m, _: by_noise(m, [*AVSR_SYSTEMS, *OMNI], "16,5"),
    "asr": lambda m, _: by_rates(m, ASR, ASR_RATES, outside=True),
    "asr-differences": lambda m, _: differences(m, to_baseline(OTHERS, "-asr"), ASR_RATES),
    "asr-0db": lambda m, _: by_rates(m, ASR, ASR_RATES, 0.0, outside=True),
    "asr-noise": lambda m, _: by_noise(m, ASR, "4,-"),
    "vsr": lambda m, _: by_rates(m, VSR, VSR_RATES, outside=True),
    "vsr-differences": lambda m, _: differences(m, to_baseline(OTHERS, "-vsr"), VSR_RATES),
    "control": lambda m, _: differences(m, to_control(MATRYOSHKA), AVSR_RATES),
    "control-0db": lambda m, _: differences(m, to_control(MATRYOSHKA), AVSR_RATES, 0.0),
    "control-asr": lambda m, _: differences(m, to_control(MATRYOSHKA, "-asr"), ASR_RATES),
    "control-vsr": lambda m, _: differences(m, to_control(MATRYOSHKA, "-vsr"), VSR_RATES),
    "inference": lambda m, _: by_rates(m, INFERENCE, ["1,1", *AVSR_RATES]),
    "inference-asr": lambda m, _: by_rates(m, INFERENCE_ASR, ["1,-", *FINE_RATES]),
    "stacking": lambda m, _: by_rates(m, STACKING, AVSR_RATES),
    "stacking-differences": lambda m, _: differences(m, STACKED, AVSR_RATES),
    "stacking-differences-0db": lambda m, _: differences(m, STACKED, AVSR_RATES, 0.0),
    "omni": lambda m, _: by_rates(m, OMNI, [*AVSR_RATES, "4,-", "16,-", "-,2", "-,5"]),
    "omni-0db": lambda m, _: by_rates(m, OMNI, [*AVSR_RATES, "4,-", "16,-"], 0.0),
    "clips": lambda m, _: by_rates(m, [name for one in LARGE for name in (one, one + MORE_CLIPS)], AVSR_RATES),
    "clips-differences": lambda m, _: differences(m, to_baseline(LARGE[1:], MORE_CLIPS), AVSR_RATES),
    "clips-differences-0db": lambda m, _: differences(m, to_baseline(LARGE[1:], MORE_CLIPS), AVSR_RATES, 0.0),
    "cost": lambda m, s: cost(m, s, COSTLY, ["1,1", *AVSR_RATES, "16,8"]),
    "cost-one": lambda m, s: cost(m, s, [*ASR, *VSR], [*ASR_RATES, *VSR_RATES]),
    "sizes": lambda m, s: sizes(m, s, [*AVSR_SYSTEMS, *OMNI, *ASR, *VSR]),
}


REAL = [CONTROL, "llama-avsr", "mome-mhsa-independent", "m3", *MATRYOSHKA]
EQUALLY_LARGE = [f"{system}, {EQUAL}" for system in ("llama-mtsk-mss", "mome-mhsa", "mome-ffn", "mome-layer")]
ROUTED = [f"mome-layer, {name}" for name in ROUTING]
REAL_PAIRS = [
    *to_baseline([name for name in REAL if name != BASELINE] + EQUALLY_LARGE),
    *to_control(["llama-avsr", "m3", *MATRYOSHKA[1:]]),
    *((name, "mome-layer") for name in [EQUALLY_LARGE[-1], *ROUTED]),
    ("mome-mhsa-independent", "mome-mhsa"),
]
REAL_TABLES: dict[str, Callable[[Measured], str]] = {
    "real-asr": lambda m: by_rates(m, [*REAL, *EQUALLY_LARGE, *ROUTED], ASR_RATES, outside=True),
    "real-asr-losses": lambda m: by_rates(m, [*REAL, *EQUALLY_LARGE, *ROUTED], ASR_RATES, LOSS),
    "real-asr-loss-differences": lambda m: differences(m, REAL_PAIRS, ASR_RATES, LOSS),
    "real-asr-differences": lambda m: differences(m, REAL_PAIRS, ASR_RATES),
}
GRID_TABLES: dict[str, Callable[[Measured], str]] = {
    "real-avsr": lambda m: by_rates(m, REAL, AVSR_RATES, outside=True),
    "real-avsr-differences": lambda m: differences(m, REAL_PAIRS, AVSR_RATES),
    "real-avsr-0db": lambda m: by_rates(m, REAL, AVSR_RATES, 0.0, outside=True),
    "real-avsr-differences-0db": lambda m: differences(m, REAL_PAIRS, AVSR_RATES, 0.0),
}


def alignment(folder: Path) -> str:
    """What trainings of several lengths, each whole, reach on the validation split with the alignment and without."""
    rows = []
    for run in SPEECH.effect_runs():
        if not (folder / f"{run.name}.json").exists():
            continue
        document = json.loads((folder / f"{run.name}.json").read_text())
        spent = document["training"]
        minutes = [seconds / 60 for seconds in (spent.get("alignment_seconds", 0.0), spent["seconds"])]
        errors = {row["rates"]: f"{100 * row['wer']:.1f}" for row in document["results"]}
        rows.append(
            [
                "without" if UNALIGNED[0] in run.overrides else "with",
                run.overrides[-1].rpartition("=")[2],
                f"{minutes[0]:.1f} + {minutes[1]:.1f}",
                f"{validation_loss(run, folder):.3f}",
                *(errors[rates] for rates in ASR_RATES),
            ]
        )
    return table(["alignment", "steps", "minutes", "loss", *ASR_RATES], rows)


def learning_rates(setting: Setting, folder: Path) -> str:
    """The validation losses that chose each system's learning rate, the lowest in bold once all are there."""
    rows = []
    for system in REAL:
        tried = setting.search(system, setting.middle if system == "llama-avsr" else ())
        found = [validation_loss(one, folder) if (folder / f"{one.name}.json").exists() else None for one in tried]
        texts = ["–" if loss is None else f"{loss:.3f}" for loss in found]
        if None not in found:
            best = texts.index(min(texts))
            texts[best] = f"**{texts[best]}**"
        if set(texts) != {"–"}:
            rows.append([system, *texts])
    return table(["system", *LEARNING_RATES], rows)


def ablations(document: dict[str, Any]) -> str:
    """The rows of a sweep: losses, and their changes to the first row."""
    cells = {(cell["row"], cell["rates"]): cell for cell in document["results"]}
    rows = []
    for row in dict.fromkeys(row for row, _ in cells):
        figures = []
        for cell in (cells[row, rates] for rates in ASR_RATES):
            change = cell["loss_change"]
            told = "–" if change is None else _signed(change, *cell["loss_change_ci95"], digits=3)
            figures.append(f"{cell['loss']:.3f}" if row == document["control"] else told)
        rows.append([row, str(cells[row, ASR_RATES[0]]["seeds"]), *figures])
    return table(["row", "seeds", *ASR_RATES], rows)


def no_experts(document: dict[str, Any]) -> str:
    """mome-tiny with its experts and without, by rates and over all of them, clean and at 0 dB."""
    rows = [*document["results"], *({"rates": "all"} | row for row in document["over_rates"])]
    cells: dict[str, list[str]] = {}
    for row in rows:
        if row["snr_db"] in (None, 0.0):
            change = _signed(*(100 * value for value in (row["change"], *row["change_ci95"])))
            figures = [f"{100 * row['wer_with_experts']:.1f}", f"{100 * row['wer']:.1f}", change]
            cells.setdefault(row["rates"], []).extend(figures)
    head = ["with experts", "without", "change"]
    return table(["rates", *head, *(f"{name}, 0 dB" for name in head)], ([rates, *row] for rates, row in cells.items()))


COMPARED = {  # the methods of MoME's table 1, with our recipes and their changes
    "Llama-AVSR": ("llama-avsr",),
    "Llama-MTSK MS": (BASELINE,),
    "Llama-MTSK SS": ("llama-mtsk-ss",),
    "Llama-MTSK MSS": ("llama-mtsk-mss",),
    "MoME-23/4-MHSA-I": ("mome-mhsa-independent",),
    "MoME-23/4-FFN": ("mome-ffn",),
    "MoME-23/4-MHSA": ("mome-mhsa",),
    "MoME-23/4-LAYER": ("mome-layer",),
    "MoME-23/4-LAYER, bottleneck 1": ("mome-layer", "model.adapter.bottleneck=1"),
}
PLAIN = ["mome-8b", "mome-experts", "mome-ablations", "mtsk-others", "omni-others", "mms-parts", "checkpoints"]
QUOTED: dict[str, Callable[[Measured, Published], str]] = {
    "mome-avsr": beside,
    "mome-noise": beside_noise,
    "mtsk-inference": beside_inference,
    "mtsk-cost": beside_cost,
    "omni": beside_omni,
    **{name: lambda _, published, name=name: published.quoted(name) for name in PLAIN},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/comparison"))
    parser.add_argument("--real", type=Path, default=Path("results/real"))
    parser.add_argument("--real-gpu", type=Path, default=Path("results/real-gpu"))
    parser.add_argument("--real-averages", type=Path, default=Path("results/real-averages"))
    parser.add_argument("--grid-real", type=Path, default=Path("results/grid-real"))
    parser.add_argument("--outside", type=Path, default=Path("results/outside"))
    parser.add_argument("--published", type=Path, default=Path("results/published.yaml"))
    parser.add_argument("--no-experts", type=Path, default=Path("results/mome-tiny-no-experts.json"))
    parser.add_argument("--ablations", type=Path, default=Path("results/ablations/sweep.json"))
    parser.add_argument("--seconds", type=Path, default=Path("results/comparison-seconds.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args()
    measured, page = Measured(args.results, args.outside), args.page.read_text()
    seconds, published = json.loads(args.seconds.read_text()), Published(args.published)
    tables = {name: make(measured, seconds) for name, make in TABLES.items()}
    for setting, folder in {"asr": args.real, "gpu": args.real_gpu, "averages": args.real_averages}.items():
        real = Measured(folder, folder / "outside")
        tables |= {name.replace("-asr", f"-{setting}"): make(real) for name, make in REAL_TABLES.items()}
        tables[f"real-{setting}-learning-rates"] = learning_rates(SPEECH, folder)
    grid = Measured(args.grid_real, args.grid_real / "outside")
    tables |= {name: make(grid) for name, make in GRID_TABLES.items()}
    tables["real-avsr-learning-rates"] = learning_rates(GRID, args.grid_real)
    tables["real-alignment"] = alignment(args.real)
    tables |= {f"quoted {name}": make(measured, published) for name, make in QUOTED.items()}
    tables["no-experts"] = no_experts(json.loads(args.no_experts.read_text()))
    tables["ablations"] = ablations(json.loads(args.ablations.read_text()))
    for name, text in tables.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, after = page.partition(start)
        if not found:
            raise SystemExit(f"{args.page} has no place for the table {name}")
        page = f"{before}{start}{text}\n{end}{after.partition(end)[2]}"
    args.page.write_text(page)


if __name__ == "__main__":
    main()
