"""Train the systems that the papers compare on real backbones, and evaluate them on speakers that none has heard.

    python scripts/comparison/real.py build/mome-base/manifest.csv --test SPEECH/manifest.csv

The first manifest has the splits train and valid. The systems start from one alignment for each kind of connector; the
learning rate of each is chosen by the loss that short trainings reach on the validation split; then come the runs that
are compared, the most important first. Each gives a JSON file in results/real, from which tables.py makes the tables of
docs/results.md. What is done is skipped, and what was interrupted goes on, at the same command.

With a GPU: --jobs 4 --set data.max_frames=4800 --set optim.rates_per_step=null, for example.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

from run import Measurement, add_options, do_all, only, train_and_evaluate
from runs import AUDIO_RATES, SEEDS, Run, at

LEARNING_RATES = ("5e-4", "1e-3", "2e-3")
SEARCH_STEPS = 150
MIDDLE = at(12, None)  # the rate at which the learning rate of models of one rate is chosen
EQUAL = "1.0M"  # active parameters: those of LoRA-MS and -SS of rank width/32
SYSTEMS = (
    *("projectors-only", "llama-mtsk-ms", "mome-layer", "mome-mhsa", "mome-ffn"),
    *("llama-mtsk-mss", "llama-mtsk-ss", "m3"),
)
ROUTING = {  # what the papers leave open; 0.01 in the form that is 4 at balance, with 4 active experts, is 0.04 here
    "renormalised": ("model.adapter.renormalize=true",),
    "balance 0.04": ("model.balance_weight=0.04",),
    "renormalised, balance 0.04": ("model.adapter.renormalize=true", "model.balance_weight=0.04"),
}


def recipe(system: str) -> str:
    return f"{system}-asr-speech"


def alignment(system: str) -> Run:
    """The alignment of the system's kind of connector, which a training of one step carries out."""
    first = "m3" if system == "m3" else "projectors-only"
    return Run("alignment", recipe(first), ("optim.steps=1",), SEEDS[0], stage="align")


def search(system: str, overrides: tuple[str, ...] = ()) -> tuple[Run, ...]:
    """Short trainings, to choose a system's learning rate by."""
    needs = (alignment(system),)
    changes = [(*overrides, f"optim.steps={SEARCH_STEPS}", f"optim.learning_rate={rate}") for rate in LEARNING_RATES]
    return tuple(Run(system, recipe(system), each, SEEDS[0], needs, "search") for each in changes)


def compared(
    system: str, seed: int, overrides: tuple[str, ...] = (), name: str = "", tried: tuple[Run, ...] = ()
) -> Run:
    """A run that is compared, at the learning rate that was chosen for its system."""
    needs = (alignment(system), *(tried or search(system)))
    return Run(f"{system}, {name}" if name else system, recipe(system), overrides, seed, needs)


def one_rate(seed: int, rates: list[int]) -> list[Run]:
    """Independent models of one rate each, LoRA's at the learning rate that was chosen at the middle one."""
    runs = []
    for rate in rates:
        runs.append(compared("llama-avsr", seed, at(rate, None), tried=search("llama-avsr", MIDDLE)))
        independent = compared("mome-mhsa", seed, at(rate, None))
        runs.append(Run("mome-mhsa-independent", independent.recipe, at(rate, None), seed, independent.needs))
    return runs


def all_runs() -> list[Run]:
    """All runs that are compared, the most important first."""
    first, *others = SEEDS
    runs = [compared(system, first) for system in SYSTEMS[:3]]
    runs += one_rate(first, [4, 16])[::2]
    runs += [compared(system, first) for system in SYSTEMS[3:]]
    runs += [compared(system, seed) for seed in others for system in SYSTEMS]
    for seed in SEEDS:
        equal = (f"model.adapter.bottleneck={EQUAL}",)
        runs += [compared(system, seed, equal, EQUAL) for system in ("mome-layer", "mome-mhsa", "mome-ffn")]
        runs.append(compared("llama-mtsk-mss", seed, equal, EQUAL))
        runs += [compared("mome-layer", seed, overrides, name) for name, overrides in ROUTING.items()]
        runs += one_rate(seed, AUDIO_RATES)
    return list(dict.fromkeys(runs))


def work(run: Run, args: argparse.Namespace) -> str:
    """Do a run: an alignment, a training to choose a learning rate by, or one that is compared."""
    overrides = [f"data.manifests=[{args.manifest}]", "augment.noise=[]"]
    if run.stage != "align":
        (align,) = (need for need in run.needs if need.stage == "align")
        overrides.append(f"align.start={args.runs / align.name / 'align'}")
    if not run.stage:
        overrides.append(learning_rate(run, args.results))
    overrides += [*run.overrides, *args.set]
    if run.stage == "align":
        return train_and_evaluate(run, overrides, args.runs / run.name, None)
    manifest, split = (args.manifest, "valid") if run.stage else (args.test, "test")
    store, encoded = args.runs / "clips", args.runs / "encoded"
    measured = Measurement(manifest, split, store, args.results, False, encoded=encoded, losses=bool(run.stage))
    return train_and_evaluate(run, overrides, args.runs / run.name, measured)


def learning_rate(run: Run, results: Path) -> str:
    """The override of the learning rate whose validation loss was lowest, in the mean over the rates."""
    tried = [need for need in run.needs if need.stage == "search"]
    return min(tried, key=partial(validation_loss, results=results)).overrides[-1]


def validation_loss(run: Run, results: Path) -> float:
    """Mean validation loss over the rates."""
    return statistics.mean(json.loads((results / f"{run.name}.json").read_text())["losses"].values())


def is_done(run: Run, args: argparse.Namespace) -> bool:
    """Whether the run was done here."""
    trained = (args.runs / run.name / "config.json").exists()
    return trained and (run.stage == "align" or (args.results / f"{run.name}.json").exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--test", type=Path, required=True, help="manifest whose split test is transcribed")
    add_options(parser, "real")
    args = parser.parse_args()
    failed = do_all(only(all_runs(), args), partial(is_done, args=args), partial(work, args=args), args.jobs)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
