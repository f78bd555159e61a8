"""Train every system on a small part of GRID and evaluate it, clean and in noise.

    python scripts/comparison/run.py grid.csv --noise babble.flac

Each training gives a JSON file in results/comparison, from which tables.py makes the tables of docs/results.md. Runs
that are done are skipped; delete a run's folder in runs/comparison if its recipe has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from runs import Run, all_runs

LEVELS = (None, 7.5, 5.0, 2.5, 0.0, -5.0)


def train_and_evaluate(run: Run, args: argparse.Namespace) -> str:
    """Train and evaluate a system, with output to the run's log; returns a line about the result."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import mome
    from mome.data.manifests import read_manifest
    from mome.data.stores import ClipStore
    from mome.evaluation.evaluate import evaluate
    from mome.evaluation.result import make_conditions, results_document, write_json
    from mome.media.noise import load_noise
    from mome.model.cost import parameter_counts
    from mome.text.wer import word_errors
    from mome.training.run import train

    torch.set_num_threads(1)
    folder = args.runs / run.name
    folder.mkdir(parents=True, exist_ok=True)
    data = [f"data.manifests=[{args.manifest}]", f"augment.noise=[{args.noise}]"]
    overrides = [*data, *run.overrides, *args.set, f"optim.seed={run.seed}", f"output={folder}"]
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        if not (folder / "config.json").exists():
            train(run.recipe, overrides, resume=True)
        transcriber = mome.load(folder)
        config, rate_set = transcriber.model.config, transcriber.model.rate_set
        has_sound = any(task != "vsr" for task in rate_set.tasks)
        conditions = make_conditions(rate_set.rates(), LEVELS if has_sound else (None,))
        results = evaluate(
            transcriber,
            read_manifest(args.manifest, args.split),
            conditions,
            noise=load_noise(args.noise),
            batch_size=30,
            store=ClipStore(args.runs / "clips", audio=True, video=True),
        )
    command = " ".join(["mome train", run.recipe, *overrides])
    document = results_document(results, command=command, model=str(folder), data=str(args.manifest), seed=0)
    for row, result in zip(document["results"], results, strict=True):
        counts = word_errors([clip.reference for clip in result.hypotheses], [clip.text for clip in result.hypotheses])
        row["clip_errors"] = " ".join(str(count.errors) for count in counts)  # in the split's order
    document |= {
        "system": run.system,
        "training": {"recipe": run.recipe, "seed": run.seed, "loss": last_loss(folder)},
        "parameters": asdict(parameter_counts(config)),
    }
    write_json(args.results / f"{run.name}.json", document)
    clean = [result.wer for result in results if result.condition.snr_db is None]
    return f"{run.name}: WER % {' '.join(f'{100 * (wer or 0):.1f}' for wer in clean)}"


def last_loss(folder: Path) -> float:
    """The last loss in the training's log."""
    history = json.loads((folder / "history.json").read_text())
    return next(entry["loss"] for entry in reversed(history) if "loss" in entry)


def is_done(run: Run, args: argparse.Namespace) -> bool:
    """Whether the run was trained and evaluated here; a checkout has results without their runs."""
    return (args.results / f"{run.name}.json").exists() and (args.runs / run.name / "config.json").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--noise", type=Path, required=True, help="babble, in training and for the noisy conditions")
    parser.add_argument("--split", default="test")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--results", type=Path, default=Path("results/comparison"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, each on one thread")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only runs whose names begin with NAME; repeatable"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change of every recipe")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    chosen = [run for run in all_runs() if run.name.startswith(tuple(args.only or [""]))]
    todo = [run for run in chosen if not is_done(run, args)]
    print(f"{len(todo)} of {len(chosen)} runs to do", flush=True)
    failed = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context) as pool:
        futures = {pool.submit(train_and_evaluate, run, args): run for run in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                print(f"[{done}/{len(todo)}] {future.result()}", flush=True)
            except Exception as error:  # one failure must not end hours of work
                failed += 1
                print(f"[{done}/{len(todo)}] {futures[future].name} failed: {error}", file=sys.stderr, flush=True)
                traceback.print_exception(error)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
