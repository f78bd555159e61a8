"""Measure how times grow with a clip's length, the batch and the beams, and how far they are from the machine's limits.

    python -m benchmarks.growth [--turns 5]

mome-base at (4,-) hears the demonstration clip, repeated to the length, and writes 32 tokens. From 10 s of one clip
with one beam, one of the three grows at a time. Times are CPU seconds of one thread, in turn; a step is what one token
takes of all clips and beams. The floor of a step is the time to read the language model's weights once, at the rate
at which a sum over a gibibyte reads; that of the encoder and of the prompt is the time of their operations at the rate
of a product of matrices of 2048.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import mome
from mome import Rates
from mome.analysis.cost import machine
from mome.clip import SAMPLE_RATE
from mome.decoding import Transcriber
from mome.evaluation.result import run_document, write_json
from mome.model.cost import inference_cost

NEW = 32
RATES = Rates(4, None)
SECONDS, BATCHES, BEAMS = (2, 5, 10, 20, 28), (1, 4, 16), (1, 5, 15)
BASE = (10, 1, 1)
CASES = tuple(
    dict.fromkeys(
        [(each, *BASE[1:]) for each in SECONDS]
        + [(BASE[0], each, BASE[2]) for each in BATCHES]
        + [(*BASE[:2], each) for each in BEAMS]
    )
)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def limits(dtype: torch.dtype) -> dict[str, float]:
    """Bytes a second that can be read, and operations a second, by one thread."""
    many = torch.ones(2**28)
    side = torch.randn(2048, 2048).to(dtype)
    return {
        "bytes_per_second": many.nbytes / min(cpu_seconds(many.sum) for _ in range(5)),
        "operations_per_second": 2 * 2048**3 / min(cpu_seconds(lambda: side @ side) for _ in range(5)),
    }


@torch.inference_mode()
def measure(transcriber: Transcriber, case: tuple[int, int, int], turns: int, most: dict[str, float]) -> dict[str, Any]:
    """A row of the results."""
    seconds, batch, beams = case
    film = Path(mome.__file__).parent / "demo" / "clip.mp4"
    clip = transcriber.load_clip(film, [RATES])
    assert clip.audio is not None
    clip = replace(clip, audio=np.resize(clip.audio, seconds * SAMPLE_RATE))
    rows = [[RATES]] * batch
    encoded = transcriber.encode([clip] * batch, rows, NEW)
    prepared = transcriber.model.prepare(encoded, [RATES] * batch)

    def write(tokens: int) -> None:
        options: dict[str, Any] = {"num_beams": beams, "min_new_tokens": tokens, "max_new_tokens": tokens}
        options["ctc_weight"] = 0.0  # the language model alone
        transcriber.model.generate(prepared=prepared, **options)

    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: transcriber.encode([clip] * batch, rows, NEW),
        "prompt": lambda: write(1),
        "all": lambda: write(NEW),
    }
    times = [{name: cpu_seconds(call) for name, call in calls.items()} for _ in range(turns + 1)][1:]
    for each in times:
        each["step"] = (each.pop("all") - each["prompt"]) / (NEW - 1)
    model = transcriber.model
    frames = encoded.audio.mask.sum().item() // batch if encoded.audio is not None else 0
    cost = inference_cost(model.config, RATES, int(frames), 0, 1)
    weights = sum(p.nbytes for name, p in model.language_model.named_parameters() if "embed_tokens" not in name)
    weights += model.language_model.get_output_embeddings().weight.nbytes
    floors = {
        "encode": batch * cost.encoders / most["operations_per_second"],
        "prompt": batch * (cost.total - cost.encoders) / most["operations_per_second"],
        "step": weights / most["bytes_per_second"],
    }
    row: dict[str, Any] = {"seconds": seconds, "batch": batch, "beams": beams, "tokens": prepared.counts[0].total}
    for name, floor in floors.items():
        column = [each[name] for each in times]
        row[name] = {"seconds": median(column), "range": [min(column), max(column)], "floor": floor}
    return row


def table(document: dict[str, Any]) -> str:
    """The results as a Markdown table, that of docs/performance.md: seconds, and how many times the floor."""
    columns = [(dtype, name) for dtype in ("float32", "bfloat16") for name in ("encode", "prompt", "step")]
    heads = ["seconds", "clips", "beams", *(f"{dtype}: {name}" for dtype, name in columns)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for number, (seconds, batch, beams) in enumerate(CASES):
        found = [document[dtype]["rows"][number][name] for dtype, name in columns]
        cells = [f"{each['seconds']:.3f} ({each['seconds'] / each['floor']:.1f})" for each in found]
        lines.append(f"| {seconds} | {batch} | {beams} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/growth.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.growth"])
    document = run_document(command=command, model="mome-base", data="the demonstration clip", seed=0)
    document |= {"machine": machine(torch.device("cpu")), "turns": given.turns, "new_tokens": NEW}
    for dtype in ("float32", "bfloat16"):
        transcriber = mome.load("mome-base", device="cpu", dtype=dtype)
        most = limits(getattr(torch, dtype))
        rows = []
        for case in CASES:
            rows.append(measure(transcriber, case, given.turns, most))
            shown = {name: f"{rows[-1][name]['seconds']:.3f}" for name in ("encode", "prompt", "step")}
            print(dtype, case, rows[-1]["tokens"], shown, flush=True)
        document[dtype] = {**most, "rows": rows}
        write_json(given.out, document)
    print(table(document))


if __name__ == "__main__":
    main()
