"""Measure linear layers by PyTorch's default and as a transcriber computes them.

    python -m benchmarks.linear [--turns 9]

In float32 the default is MKL, the other oneDNN; in bfloat16, oneDNN with the vectors or the weights as first factor.
Sizes are those of SmolLM2-135M, its head, Whisper-base and Llama-3.2-1B, for several numbers of vectors. Times are CPU
seconds of one thread, both in turn; a ratio is that of one turn.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json

SIZES = ((576, 1536), (576, 49152), (512, 2048), (2048, 8192))
ROWS = (1, 4, 8, 15, 132, 1500)
MOST = 4e10  # products in one call


def seconds(call: Callable[[], Any], times: int) -> float:
    """CPU seconds of this thread for one call, in the mean."""
    began = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - began) / times


def measure(dtype: torch.dtype, rows: int, inner: int, outer: int, turns: int) -> dict[str, Any]:
    """A row of the results."""
    x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)

    def default() -> Tensor:
        return F.linear(x, weight)

    def onednn() -> Tensor:
        if dtype == torch.bfloat16:
            return torch.mm(weight, x.t()).t().contiguous()
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return product

    times = max(1, min(200, int(2e8 / (inner * outer * (rows + 20)))))
    pairs = [(seconds(default, times), seconds(onednn, times)) for _ in range(turns + 1)][1:]
    ratios = [one / other for one, other in pairs]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "inner": inner,
        "outer": outer,
        "default_seconds": median(one for one, _ in pairs),
        "onednn_seconds": median(other for _, other in pairs),
        "default_over_onednn": median(ratios),
        "default_over_onednn_range": [min(ratios), max(ratios)],
    }


@torch.inference_mode()
def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/linear.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.linear"])
    document = run_document(command=command, model=None, data="random", seed=0)
    document |= {"machine": machine(torch.device("cpu")), "turns": given.turns}
    found = [
        measure(dtype, rows, *sizes, given.turns)
        for dtype in (torch.float32, torch.bfloat16)
        for sizes in SIZES
        for rows in ROWS
        if rows * sizes[0] * sizes[1] < MOST
    ]
    write_json(given.out, {**document, "products": found})
    for each in found:
        print(each["dtype"], each["inner"], each["outer"], each["rows"], f"{each['default_over_onednn']:.2f}")


if __name__ == "__main__":
    main()
