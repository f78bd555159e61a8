"""Train the systems that the papers compare on real backbones, and evaluate them on clips that none has seen.

    python scripts/comparison/real.py build/mome-base/manifest.csv --test SPEECH/manifest.csv
    python scripts/comparison/real.py GRID/manifest.csv --corpus grid-real --noise babble.flac

The first is speech recognition on transcribed English, the second audio-visual recognition on GRID. The first manifest
has the splits train and valid. The systems start from one alignment for each kind of connector; the learning rate of
each is chosen by the loss that short trainings reach on the validation split; then come the runs that are compared, the
most important first. Each gives a JSON file in results/real or results/grid-real, from which tables.py makes the tables
of docs/results.md. What is done is skipped, and what was interrupted goes on, at the same command.

With a GPU, as for results/real-gpu: --jobs 11 --batch 60 --steps 350 --set data.max_frames=6000 --set data.workers=1
--set align.max_frames=6000 --set align.epochs=6 and folders of its own by --runs and --results, with NVIDIA's MPS
started before. As for results/real-averages: the same with --jobs 13 --steps 300 --set model.compression=average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from run import Measurement, add_options, do_all, only, place, train_and_evaluate
from runs import AUDIO_RATES, PAIRS, SEEDS, Run, at

LEARNING_RATES = ("5e-4", "1e-3", "2e-3")
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
EFFECT_STEPS = (125, 250, 500)
UNALIGNED = ("align.epochs=null", "align.steps=null")


@dataclass(frozen=True)
class Setting:
    """A corpus on which the systems are compared.

    Attributes:
        folder: name of the folders of its runs and results.
        recipes: how the names of its recipes end.
        rates: overrides that fix a model to one of the rates, for each of them.
        early: those whose models are trained early.
        middle: those at which the learning rate of models of one rate is chosen.
        search_steps: length of the trainings to choose a learning rate by.
        variants: further rows: a system, what their name adds to its, and overrides.
        levels: signal-to-noise ratios to measure at, if there is noise.
        effect: the system by which the effect of the alignment is measured; ``None`` to leave that out.
        own: recipe and overrides of systems with a connector of their own, which have an alignment of their own.
    """

    folder: str
    recipes: str
    rates: tuple[tuple[str, ...], ...]
    early: tuple[tuple[str, ...], ...]
    middle: tuple[str, ...]
    search_steps: int
    variants: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    levels: tuple[float | None, ...] = (None,)
    effect: str | None = None
    own: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def recipe(self, system: str) -> str:
        return f"{self.own[system][0] if system in self.own else system}-{self.recipes}"

    def changes(self, system: str) -> tuple[str, ...]:
        return self.own[system][1] if system in self.own else ()

    def alignment(self, system: str) -> Run:
        """The alignment of the system's kind of connector, which a training of one step carries out."""
        first = system if system in self.own else "projectors-only"
        changes = (*self.changes(first), "optim.steps=1")
        return Run("alignment", self.recipe(first), changes, SEEDS[0], stage="align")

    def search(self, system: str, overrides: tuple[str, ...] = ()) -> tuple[Run, ...]:
        """Short trainings, to choose a system's learning rate by."""
        needs = () if overrides == UNALIGNED else (self.alignment(system),)
        steps = f"optim.steps={self.search_steps}"
        # What moves most has the learning rate that is tried: the adapter or, without one, the connector.
        also = ("optim.connector_learning_rate=null",) if system == "projectors-only" else ()
        overrides = (*self.changes(system), *overrides, *also)
        changes = [(*overrides, steps, f"optim.learning_rate={rate}") for rate in LEARNING_RATES]
        return tuple(Run(system, self.recipe(system), each, SEEDS[0], needs, "search") for each in changes)

    def compared(
        self, system: str, seed: int, overrides: tuple[str, ...] = (), name: str = "", tried: tuple[Run, ...] = ()
    ) -> Run:
        """A run that is compared, at the learning rate that was chosen for its system."""
        needs = (self.alignment(system), *(tried or self.search(system)))
        overrides = (*self.changes(system), *overrides)
        return Run(f"{system}, {name}" if name else system, self.recipe(system), overrides, seed, needs)

    def one_rate(self, seed: int, rates: tuple[tuple[str, ...], ...]) -> list[Run]:
        """Independent models of one rate each, LoRA's at the learning rate that was chosen at the middle one."""
        runs = []
        for rate in rates:
            runs.append(self.compared("llama-avsr", seed, rate, tried=self.search("llama-avsr", self.middle)))
            independent = self.compared("mome-mhsa", seed, rate)
            runs.append(Run("mome-mhsa-independent", independent.recipe, rate, seed, independent.needs))
        return runs

    def effect_runs(self) -> list[Run]:
        """Trainings of several lengths with the alignment and without, each at its own learning rate."""
        if self.effect is None:
            return []
        runs = []
        for steps in EFFECT_STEPS:
            for overrides, needs in (((), (self.alignment(self.effect),)), (UNALIGNED, ())):
                needs = (*needs, *self.search(self.effect, overrides))
                changes = (*overrides, f"optim.steps={steps}")
                runs.append(Run(self.effect, self.recipe(self.effect), changes, SEEDS[0], needs, "effect"))
        return runs

    def all_runs(self) -> list[Run]:
        """All runs that are compared, the most important first."""
        first, *others = SEEDS
        runs = [self.compared(system, first) for system in SYSTEMS[:3]]
        runs += self.one_rate(first, self.early)[::2]
        runs += [self.compared(system, first) for system in SYSTEMS[3:]]
        runs += self.effect_runs()
        runs += [self.compared(system, seed) for seed in others for system in SYSTEMS]
        for seed in SEEDS:
            runs += [self.compared(system, seed, overrides, name) for system, name, overrides in self.variants]
            runs += self.one_rate(seed, self.rates)
        return list(dict.fromkeys(runs))


SPEECH = Setting(
    folder="real",
    recipes="asr-speech",
    rates=tuple(at(rate, None) for rate in AUDIO_RATES),
    early=(at(4, None), at(16, None)),
    middle=at(12, None),
    search_steps=100,
    variants=(
        *(
            (system, EQUAL, (f"model.adapter.bottleneck={EQUAL}",))
            for system in ("mome-layer", "mome-mhsa", "mome-ffn", "llama-mtsk-mss")
        ),
        *(("mome-layer", name, overrides) for name, overrides in ROUTING.items()),
    ),
    effect="mome-layer",
    own={"m3": ("llama-mtsk-ms", ("model.compression=average",))},  # one projector for all rates, as all have
)
GRID = Setting(
    folder="grid-real",
    recipes="grid-real",
    rates=tuple(at(*pair) for pair in PAIRS),
    early=(at(*PAIRS[0]), at(*PAIRS[-1])),
    middle=at(*PAIRS[1]),
    search_steps=100,
    levels=(None, 0.0),
    own={"m3": ("m3", ())},
)
SETTINGS = {setting.recipes: setting for setting in (SPEECH, GRID)}


def work(run: Run, args: argparse.Namespace) -> str:
    """Do a run: an alignment, a training to choose a learning rate by, or one that is measured."""
    setting = SETTINGS[args.corpus]
    overrides = [f"data.manifests=[{args.manifest}]", f"augment.noise=[{args.noise or ''}]"]
    start = next((args.runs / need.name / "align" for need in run.needs if need.stage == "align"), None)
    if start is not None:
        overrides.append(f"align.start={start}")
    if run.stage in ("align", "effect"):  # whose time is told: begun anew if interrupted
        overrides.append("validation.every_steps=1000000")
    if run.stage in ("", "effect"):
        overrides += learning_rate(run, args.results)
    if args.steps is not None and run.stage == "":
        overrides.append(f"optim.steps={args.steps}")
    overrides += [*run.overrides, *args.set]
    overrides += [each for each in UNALIGNED if each in run.overrides]  # whatever the alignment is set to
    if run.stage == "align":
        return train_and_evaluate(run, overrides, args.runs / run.name, None)
    manifest, split = (args.manifest, "valid") if run.stage else (args.test or args.manifest, "test")
    measured = Measurement(
        manifest,
        split,
        args.runs / "clips",
        args.results,
        video=setting is GRID,
        noise=args.noise,
        levels=setting.levels,
        encoded=args.runs / "encoded",
        losses=True,
        transcripts=run.stage != "search",
        start=start,
        batch=args.batch,
    )
    return train_and_evaluate(run, overrides, args.runs / run.name, measured)


def learning_rate(run: Run, results: Path) -> tuple[str, ...]:
    """The overrides of the learning rate whose validation loss was lowest, in the mean over the rates."""
    tried = [need for need in run.needs if need.stage == "search"]
    chosen = min(tried, key=partial(validation_loss, results=results)).overrides
    return tuple(each for each in chosen if "learning_rate=" in each)


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
    parser.add_argument("--corpus", choices=SETTINGS, default=SPEECH.recipes, help="how the recipes' names end")
    parser.add_argument("--test", type=Path, help="manifest whose split test is transcribed, if not the first")
    parser.add_argument("--noise", type=Path, help="babble, in training and for the noisy conditions")
    parser.add_argument("--steps", type=int, help="of the trainings that are compared, if not the recipe's")
    add_options(parser)
    args = parser.parse_args()
    setting = SETTINGS[args.corpus]
    place(args, setting.folder)
    failed = do_all(only(setting.all_runs(), args), partial(is_done, args=args), partial(work, args=args), args.jobs)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
