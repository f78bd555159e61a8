"""Search for inputs that end in a traceback, a crash, a hang or too much memory.

    python -m scripts.fuzz.run --out results/fuzz.json media=10000 folders=1000 settings=1000

Each case is made from the seed, the kind and its number alone and runs in a process of its own. Those that end as they
must not are kept, with what was printed, in the folder that --keep names; KIND=FROM:TO runs a part anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from scripts.fuzz import checkpoints, folders, media, settings
from scripts.fuzz.sandbox import FAULTS, MEGABYTES, SECONDS, Outcome, command, run, warm_up

KINDS = {"media": media.make, "folders": folders.make, "settings": settings.make, "checkpoints": checkpoints.make}


def run_case(kind: str, number: int, seed: int, keep: Path) -> tuple[Outcome, str]:
    """Make and run a case; its output is kept if it ended in a fault."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    try:
        call, label = KINDS[kind](rng, folder)
        outcome = run(call, folder)
        if outcome.end in FAULTS:
            place = keep / f"{kind}-{seed}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            (place / "log").write_text(f"{outcome.end}: {label}\n\n{outcome.output}")
        return outcome, label
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: tuple[str, int, int, Path]) -> tuple[str, int, Outcome, str]:
    kind, number, seed, keep = job
    return (kind, number, *run_case(kind, number, seed, keep))


def search(chosen: dict[str, range], seed: int, keep: Path, jobs: int, show: bool) -> dict[str, Any]:
    """Run all cases; returns counts by kind, and the faults."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in chosen}
    slowest, largest = dict.fromkeys(chosen, 0.0), dict.fromkeys(chosen, 0.0)
    faults = []
    began = time.monotonic()
    cases = [(kind, number, seed, keep) for kind, numbers in chosen.items() for number in numbers]
    with get_context("fork").Pool(jobs) as pool:
        for done, (kind, number, outcome, label) in enumerate(pool.imap_unordered(_work, cases), 1):
            counts[kind][outcome.end] += 1
            slowest[kind] = max(slowest[kind], outcome.seconds)
            largest[kind] = max(largest[kind], outcome.megabytes)
            if outcome.end in FAULTS:
                faults.append({"kind": kind, "number": number, "end": outcome.end, "case": label})
                print(f"{kind} {number}: {outcome.end}, {label}", file=sys.stderr, flush=True)
            if show and done % 100 == 0:
                print(f"{done} of {len(cases)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return {
        "kinds": {
            kind: {
                "cases": sum(counts[kind].values()),
                **{end: counts[kind][end] for end in ("right", "refused", *FAULTS)},
                "slowest_seconds": round(slowest[kind], 2),
                "largest_megabytes": round(largest[kind]),
            }
            for kind in chosen
        },
        "faults": sorted(faults, key=lambda fault: (fault["kind"], fault["number"])),
    }


def _numbers(text: str) -> tuple[str, range]:
    kind, _, numbers = text.partition("=")
    if kind not in KINDS or not numbers.replace(":", "").isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not KIND=COUNT or KIND=FROM:TO of {', '.join(KINDS)}")
    first, _, last = numbers.rpartition(":")
    return kind, range(int(first or 0), int(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chosen", nargs="+", type=_numbers, metavar="KIND=COUNT", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for logs of what went wrong")
    parser.add_argument("--out", type=Path, help="write the counts to this file as well")
    given = parser.parse_args()
    chosen = dict(given.chosen)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warm_up([_warm, media.seeds, media.transcriber, checkpoints.seeds])
    from mome.evaluation.result import run_document, write_json

    found = search(chosen, given.seed, given.keep, given.jobs, show=True)
    named = " ".join(f"{kind}={numbers.start}:{numbers.stop}" for kind, numbers in chosen.items())
    line = f"python -m scripts.fuzz.run {named} --seed {given.seed}"
    document = run_document(command=line, model="mome-tiny", data="made from the seed", seed=given.seed)
    document |= {"limits": {"seconds": SECONDS, "megabytes": MEGABYTES}, **found}
    print(json.dumps(document, indent=2))
    if given.out:
        write_json(given.out, document)
    sys.exit(bool(found["faults"]))


def _warm() -> None:
    with contextlib.suppress(SystemExit):
        command("transcribe", str(folders.CLIP), "--rates", "16,5")()


if __name__ == "__main__":
    main()
