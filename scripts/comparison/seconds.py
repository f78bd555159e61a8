"""Measure what the compared systems take in time, one after the other on one thread of an idle machine.

    python scripts/comparison/seconds.py grid.csv --noise babble.flac

Transcribing is timed with the trained models of run.py, training by an epoch of the same recipes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import mome
from mome.data.clips import ClipStore
from mome.data.manifests import read_manifest
from mome.evaluation.result import run_document, write_json
from mome.training.run import train
from runs import SEEDS, Run, further_runs, main_runs

CLIPS, REPEATS, EPOCHS = 10, 3, 1


def transcribing(one: Run, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Processing seconds for a second of speech, by rates: medians and ranges over the repeats."""
    transcriber = mome.load(args.runs / one.name)
    rates = list(transcriber.model.rate_set.rates())
    store = ClipStore(args.runs / "clips", audio=True, video=True)
    clips = [store.get(row) for row in read_manifest(args.manifest, args.split)[:CLIPS]]
    speech = sum(clip.seconds for clip in clips)
    spent: dict[str, list[list[float]]] = {"encode": [], "decode": []}
    for repeat in range(REPEATS + 1):
        times = [[one.seconds for one in transcriber.transcribe_rates(clip, rates)] for clip in clips]
        if repeat:  # the first warms up
            for part, values in spent.items():
                values.append([sum(getattr(row[i], part) for row in times) / speech for i in range(len(rates))])
    return [
        {"system": one.system, "rates": str(rate)}
        | {part: _summary([repeat[i] for repeat in values]) for part, values in spent.items()}
        for i, rate in enumerate(rates)
    ]


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def training(one: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step with cached features, the optimiser's first steps included."""
    with tempfile.TemporaryDirectory() as folder:
        named = [f"data.manifests=[{args.manifest}]", f"augment.noise=[{args.noise}]", f"output={folder}/run"]
        overrides = [*named, *one.overrides, f"optim.seed={one.seed}", f"optim.epochs={EPOCHS}"]
        train(one.recipe, [text for text in overrides if text != "optim.epochs=100"])
        last = json.loads((Path(folder) / "run" / "history.json").read_text())[-1]
    return {"system": one.system, "seconds_per_step": last["train_runtime"] / last["step"], "steps": last["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--noise", type=Path, required=True, help="babble, in training")
    parser.add_argument("--split", default="test")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--out", type=Path, default=Path("results/comparison-seconds.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [*main_runs(SEEDS[0]), *further_runs(SEEDS[0])]  # more clips do not change the time of one
    missing = [one.name for one in runs if not (args.runs / one.name / "config.json").exists()]
    if missing:
        raise SystemExit(f"{args.runs} lacks {len(missing)} trained models, such as {missing[0]}: run run.py first")
    first = {one.system: one for one in reversed(runs)}  # one of each system is enough to time its training
    document = run_document(
        command=shlex.join(["python", *sys.argv]), model=str(args.runs), data=str(args.manifest), seed=0
    )
    document |= {"clips": CLIPS, "repeats": REPEATS, "threads": 1}
    document["transcribing"] = [row for one in tqdm(runs, "transcribing") for row in transcribing(one, args)]
    document["training"] = [training(one, args) for one in tqdm(first.values(), "training")]
    write_json(args.out, document)


if __name__ == "__main__":
    main()
