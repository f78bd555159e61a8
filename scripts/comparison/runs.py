"""What the comparison trains: systems, their rates and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAIRS = [(4, 2), (4, 5), (16, 2), (16, 5)]
AUDIO_RATES = [4, 8, 12, 16, 20]
FINE_AUDIO_RATES = [2, 4, 6, 8, 10]
VIDEO_RATES = [1, 2, 3, 4, 5]
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Run:
    """A training: a shipped recipe with changes and a seed.

    Attributes:
        system: the row in the tables; runs of one system at different rates share it.
        recipe: name of the shipped recipe.
        overrides: ``key=value``, changes of the recipe.
        seed: seed of the training.
        needs: runs that must be done before.
        stage: folder of its files among those of the comparison; none for the runs that are compared.
    """

    system: str
    recipe: str
    overrides: tuple[str, ...]
    seed: int
    needs: tuple[Run, ...] = ()
    stage: str = ""

    @property
    def name(self) -> str:
        """Name of the run's folder and result file."""
        pairs = (part.split("=") for part in self.overrides)
        values = (key.rpartition(".")[2] if value == "true" else value for key, value in pairs)
        changes = "-".join(value.strip("[]").replace(",", "-") for value in values)
        name = "-".join(part for part in (self.recipe.rpartition("-")[0], changes, str(self.seed)) if part)
        return str(Path(self.stage, name))

    def all_needs(self) -> Iterator[Run]:
        """The runs that must be done before, in an order in which they can be."""
        for run in self.needs:
            yield from run.all_needs()
            yield run


def at(audio: int | None, video: int | None) -> tuple[str, ...]:
    """Overrides that fix a model to one rate of each of its modalities."""
    sides = (("audio", audio), ("video", video))
    return tuple(f"model.{name}_rates=[{rate}]" for name, rate in sides if rate is not None)


def main_runs(seed: int) -> list[Run]:
    """AVSR by the systems that are compared most closely."""
    systems = ("projectors-only", "llama-mtsk-ms", "mome-layer", "mome-mhsa", "mome-ffn")
    runs = [Run(system, f"{system}-grid", (), seed) for system in (*systems, "llama-mtsk-mss", "llama-mtsk-ss", "m3")]
    return runs + [Run("llama-avsr", "llama-avsr-grid", at(*pair), seed) for pair in PAIRS]


def further_runs(seed: int) -> list[Run]:
    """The other systems, single tasks, one model for three tasks, independent MoME models, stacking."""
    systems = ("average-pooling-at-inference", "omni-avsr-s", "omni-avsr-t", "omni-avsr-st", "mqt", "mms-llama")
    runs = [Run(system, f"{system}-grid", (), seed) for system in systems]
    # A step is one pass, four in the Matryoshka systems: four times the epochs give the same number of passes.
    longer = "optim.epochs=100"
    runs += [Run(f"{system}, 100 epochs", f"{system}-grid", (longer,), seed) for system in ("mqt", "mms-llama")]
    for system in ("llama-smop", "llama-smop-dedr", "llama-smop-jedr"):
        runs += [Run(system, f"{system}-grid", at(*pair), seed) for pair in (PAIRS[0], PAIRS[-1])]
    for task in ("asr", "vsr"):
        rates = [at(a, None) for a in AUDIO_RATES] if task == "asr" else [at(None, v) for v in VIDEO_RATES]
        runs += [Run(f"llama-avsr-{task}", f"llama-avsr-{task}-grid", rate, seed) for rate in rates]
        for system in ("projectors-only", "llama-mtsk-ms", "mome-layer"):
            runs.append(Run(f"{system}-{task}", f"{system}-{task}-grid", (), seed))
    runs.append(Run("average-pooling-at-inference-asr", "average-pooling-at-inference-asr-grid", (), seed))
    fine = (f"model.audio_rates={FINE_AUDIO_RATES}".replace(" ", ""),)
    for system in ("llama-mtsk-ms-asr", "projectors-only-asr"):
        runs.append(Run(f"{system}, 2 to 10", f"{system}-grid", fine, seed))
    runs += [Run("mome-mhsa-independent", "mome-mhsa-independent-grid", at(*pair), seed) for pair in PAIRS]
    runs.append(Run("llama-mtsk-ms, stacking", "llama-mtsk-ms-stack-grid", (), seed))
    runs += [Run("llama-avsr, stacking", "llama-avsr-stack-grid", at(*pair), seed) for pair in PAIRS]
    for task in ("asr", "vsr"):
        for system in ("llama-mtsk-mss", "mome-mhsa", "llama-mtsk-ss", "mome-ffn"):
            runs.append(Run(f"{system}-{task}", f"{system}-{task}-grid", (), seed))
    return runs


def large_runs(seed: int) -> list[Run]:
    """Systems trained with all 800 clips of the talker."""
    systems = ("mqt", "llama-mtsk-ms", "mome-layer", "m3", "projectors-only")
    return [Run(f"{system}, 800 clips", f"{system}-grid", ("data.limit=800",), seed) for system in systems]


def all_runs() -> list[Run]:
    """All runs, the most important first, so that an interrupted comparison is useful."""
    runs = [run for kind in (main_runs, further_runs) for seed in SEEDS for run in kind(seed)]
    return runs + large_runs(SEEDS[0])  # each takes as long as seven others
