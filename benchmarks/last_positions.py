"""Measure a language model's frozen head where each clip's last position has been read: PyTorch's layer and ours.

    python -m benchmarks.last_positions [--turns 9]

The head is that of SmolLM2-135M, and the clips have 100 positions, of which the last get logits. Times are CPU seconds
of one thread, both in turn; a ratio is that of one turn.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json
from mome.model.linear import leave_to_onednn

WIDTH, VOCABULARY, POSITIONS = 576, 49_152, 100
CASES = [(dtype, clips) for dtype in (torch.float32, torch.bfloat16) for clips in (1, 8)]


def seconds(layer: nn.Module, x: Tensor) -> float:
    """CPU seconds of this thread for one call."""
    began = time.thread_time()
    layer(x)
    return time.thread_time() - began


def measure(dtype: torch.dtype, clips: int, turns: int) -> dict[str, Any]:
    """A row of the results."""
    plain = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)
    ours = copy.copy(plain)
    leave_to_onednn(ours)
    last = torch.randn(clips, POSITIONS, WIDTH, dtype=dtype)[:, -1:]
    pairs = [(seconds(plain, last), seconds(ours, last)) for _ in range(turns + 1)][1:]
    ratios = [one / other for one, other in pairs]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "clips": clips,
        "default_seconds": median(one for one, _ in pairs),
        "ours_seconds": median(other for _, other in pairs),
        "default_over_ours": median(ratios),
        "default_over_ours_range": [min(ratios), max(ratios)],
    }


@torch.no_grad()
def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/last_positions.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.last_positions", *sys.argv[1:]])
    document = run_document(command=command, model=None, data="random", seed=0)
    document |= {"machine": machine(torch.device("cpu")), "turns": given.turns}
    found = [measure(*case, given.turns) for case in CASES]
    write_json(given.out, {**document, "heads": found})
    for each in found:
        print(each["dtype"], each["clips"], f"{each['default_over_ours']:.2f}")


if __name__ == "__main__":
    main()
