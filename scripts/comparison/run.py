"""Train every system on a small part of GRID and evaluate it, clean and in noise.

    python scripts/comparison/run.py grid.csv --noise babble.flac

Each training gives a JSON file in results/comparison, from which tables.py makes the tables of docs/results.md. Runs
that are done are skipped; delete a run's folder in runs/comparison if its recipe has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runs import Run, all_runs

LEVELS = (None, 7.5, 5.0, 2.5, 0.0, -5.0)


@dataclass(frozen=True)
class Measurement:
    """What a trained model is measured on.

    Attributes:
        manifest, split: the clips.
        store: folder of the clips that were read.
        video: whether the clips have faces.
        noise: recording for the noisy conditions; ``None`` for clean sound alone.
        levels: signal-to-noise ratios to measure at, if there is noise.
        encoded: folder that keeps what the encoders give, as all systems have the same; their time is not measured
            then.
        results: folder of the result files.
        transcripts: whether to transcribe.
        losses: whether to measure the loss at each rate, which costs little; with noise at the last of the levels.
        start: the alignment that the training started from, to tell its time.
        batch: clips that are transcribed at once.
    """

    manifest: Path
    split: str
    store: Path
    results: Path
    video: bool = True
    noise: Path | None = None
    levels: tuple[float | None, ...] = LEVELS
    encoded: Path | None = None
    transcripts: bool = True
    losses: bool = False
    start: Path | None = None
    batch: int = 30


def train_and_evaluate(run: Run, overrides: list[str], folder: Path, measured: Measurement | None) -> str:
    """Train a system, with output to the run's log, and evaluate it; returns a line about the result."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from mome.evaluation.result import write_json
    from mome.training.run import train

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*overrides, f"optim.seed={run.seed}", f"output={folder}"]
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        if not (folder / "config.json").exists():
            train(run.recipe, overrides, resume=True)
        for checkpoint in folder.glob("**/checkpoint-*"):  # each is several times as large as what was trained
            shutil.rmtree(checkpoint)
        if measured is None:
            return f"{run.name}: trained"
        document = evaluated(folder, measured, " ".join(["mome train", run.recipe, *overrides]))
        document["system"] = run.system
        document["training"] = {"recipe": run.recipe, "seed": run.seed, "loss": last(folder, "loss")}
        document["training"]["seconds"] = last(folder, "train_runtime")  # since it last went on
        if measured.start is not None:
            document["training"]["alignment_seconds"] = last(measured.start, "train_runtime")
        write_json(measured.results / f"{run.name}.json", document)
    if torch.cuda.is_available():  # which other processes share
        gc.collect()
        torch.cuda.empty_cache()
    if not measured.transcripts:
        return f"{run.name}: loss {' '.join(f'{loss:.3f}' for loss in document['losses'].values())}"
    clean = [row["wer"] for row in document["results"] if row["snr_db"] is None]
    return f"{run.name}: WER % {' '.join(f'{100 * (wer or 0):.1f}' for wer in clean)}"


def evaluated(folder: Path, measured: Measurement, command: str) -> dict[str, Any]:
    """The document of a trained model's results."""
    import torch

    import mome
    from mome.data.clips import ClipStore
    from mome.data.manifests import read_manifest
    from mome.evaluation.evaluate import evaluate
    from mome.evaluation.losses import transcript_losses
    from mome.evaluation.result import make_conditions, results_document
    from mome.media.noise import load_noise
    from mome.model.cost import parameter_counts
    from mome.text.wer import word_errors

    transcriber = mome.load(folder)
    rate_set = transcriber.model.rate_set
    if measured.encoded is not None:
        remember_encoded(transcriber.model, measured.encoded)
    rows = read_manifest(measured.manifest, measured.split)
    store = ClipStore(measured.store, audio=True, video=measured.video)
    noisy = measured.noise is not None and any(task != "vsr" for task in rate_set.tasks)
    conditions = make_conditions(rate_set.rates(), measured.levels if noisy else (None,))
    noise = None if measured.noise is None else load_noise(measured.noise)
    results = (
        evaluate(transcriber, rows, conditions, noise=noise, batch_size=measured.batch, store=store)
        if measured.transcripts
        else []
    )
    document = results_document(results, command=command, model=str(folder), data=str(measured.manifest), seed=0)
    for row, result in zip(document["results"], results, strict=True):
        counts = word_errors([clip.reference for clip in result.hypotheses], [clip.text for clip in result.hypotheses])
        row["clip_errors"] = " ".join(str(count.errors) for count in counts)  # in the split's order
        row["clip_words"] = " ".join(str(count.words) for count in counts)
        if measured.encoded is not None:
            row["rtf"] = None
    if measured.losses:
        level = measured.levels[-1]
        found = transcript_losses(transcriber, rows, list(rate_set.rates()), store, noise=noise, snr_db=level)
        document["losses"] = found.means()
        document["clip_losses"] = {name: " ".join(map(str, losses)) for name, losses in found.by_clip.items()}
        document["clip_tokens"] = " ".join(map(str, found.tokens))
    processor = f"one thread of {platform.machine()} with {os.cpu_count()} CPUs"
    document["machine"] = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
    return document | {"parameters": asdict(parameter_counts(transcriber.model.config))}


def remember_encoded(model: Any, folder: Path) -> None:
    """Let the model's encoders find in a folder what they gave for the same inputs before."""
    from safetensors.torch import load_file

    from mome.adapters.files import save_tensors
    from mome.data.features import fingerprint
    from mome.features import Features
    from mome.model.model import EncodedClips

    encode, encoders = model.encode, fingerprint(model.audio_encoder, model.video_encoder)
    folder.mkdir(parents=True, exist_ok=True)

    def remembered(**inputs: Any) -> EncodedClips:
        digest = hashlib.blake2b(encoders.encode(), digest_size=16)
        for name, value in sorted(inputs.items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        file = folder / f"{digest.hexdigest()}.safetensors"
        if not file.exists():
            encoded = encode(**inputs)
            sides = {"audio": encoded.audio, "video": encoded.video}
            present = {name: side for name, side in sides.items() if side is not None}
            save_tensors(
                {f"{name}.{part}": value for name, side in present.items() for part, value in vars(side).items()}, file
            )
        tensors = load_file(file, device=str(model.device))
        sides = [
            Features(tensors[f"{name}.frames"], tensors[f"{name}.lengths"]) if f"{name}.frames" in tensors else None
            for name in ("audio", "video")
        ]
        return EncodedClips(*sides)

    model.encode = remembered


def last(folder: Path, name: str) -> float:
    """The last value of that name in the training's log."""
    history = json.loads((folder / "history.json").read_text())
    return next(entry[name] for entry in reversed(history) if name in entry)


def do_all(chosen: list[Run], is_done: Callable[[Run], bool], work: Callable[[Run], str], jobs: int) -> int:
    """Do runs in parallel processes, each after those that it needs; returns the number of those that failed."""
    wanted = dict.fromkeys(needed for run in chosen for needed in (*run.all_needs(), run))
    done = {run for run in wanted if is_done(run)}
    todo = [run for run in wanted if run not in done]
    total = len(todo)
    print(f"{total} of {len(wanted)} runs to do", flush=True)
    ended = failed = 0
    running: dict[Future[str], Run] = {}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        while True:
            for run in [run for run in todo if done.issuperset(run.needs)][: jobs - len(running)]:
                todo.remove(run)
                running[pool.submit(work, run)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run, ended = running.pop(future), ended + 1
                try:
                    print(f"[{ended}/{total}] {future.result()}", flush=True)
                    done.add(run)
                except Exception as error:  # one failure must not end hours of work
                    failed += 1
                    print(f"[{ended}/{total}] {run.name} failed: {error}", file=sys.stderr, flush=True)
                    traceback.print_exception(error)
    for run in todo:
        print(f"{run.name} left out: a run that it needs failed", file=sys.stderr)
    return failed + len(todo)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every comparison."""
    parser.add_argument("--runs", type=Path, help="folder of the trainings, below runs/ if not given")
    parser.add_argument("--results", type=Path, help="folder of the result files, below results/ if not given")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, each on one thread")
    parser.add_argument("--batch", type=int, default=30, help="clips that are transcribed at once")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only runs whose names begin with NAME; repeatable"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change of every training, searches too"
    )


def place(args: argparse.Namespace, name: str) -> None:
    """Give folders that were not named that name."""
    args.runs = args.runs or Path("runs") / name
    args.results = args.results or Path("results") / name


def only(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """The runs that ``--only`` names."""
    return [run for run in runs if run.name.startswith(tuple(args.only or [""]))]


def is_done(run: Run, args: argparse.Namespace) -> bool:
    """Whether the run was trained and evaluated here; a checkout has results without their runs."""
    return (args.results / f"{run.name}.json").exists() and (args.runs / run.name / "config.json").exists()


def work(run: Run, args: argparse.Namespace) -> str:
    """Train and evaluate a system on GRID."""
    overrides = [f"data.manifests=[{args.manifest}]", f"augment.noise=[{args.noise}]", *run.overrides, *args.set]
    measured = Measurement(
        args.manifest, args.split, args.runs / "clips", args.results, noise=args.noise, batch=args.batch
    )
    return train_and_evaluate(run, overrides, args.runs / run.name, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--noise", type=Path, required=True, help="babble, in training and for the noisy conditions")
    parser.add_argument("--split", default="test")
    add_options(parser)
    args = parser.parse_args()
    place(args, "comparison")
    failed = do_all(only(all_runs(), args), partial(is_done, args=args), partial(work, args=args), args.jobs)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
