"""Measure what mome-tiny's experts contribute: its word error rates with their output and with zero in its place.

    python scripts/mome_tiny/no_experts.py grid/manifest.csv --noise babble.flac

Both models transcribe the same clips in the same noise. Nothing is trained again: the projectors stay those that were
trained beside the experts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

import mome
from mome.adapters import adapter_parameters
from mome.data.manifests import read_manifest
from mome.decoding.transcriber import Transcriber
from mome.evaluation.evaluate import evaluate
from mome.evaluation.result import Result, change, make_conditions, results_document, write_json
from mome.media.noise import load_noise
from mome.text.wer import WordErrors

LEVELS = (None, 5.0, 0.0, -5.0)


def without_experts(transcriber: Transcriber) -> Transcriber:
    """The transcriber, after all up-projections and their biases, and so the adapters' output, are set to zero."""
    outer = [weight for name, weight in adapter_parameters(transcriber.model) if name.endswith("outer_weight")]
    with torch.no_grad():
        for weight in outer:
            weight.zero_()
    return transcriber


def compared(pairs: list[tuple[Result, Result]]) -> dict[str, Any]:
    """What zeroing changed over one or more rates: error rates, and the difference with its interval over clips."""
    whole, zeroed = (sum((pair[i].errors for pair in pairs), WordErrors()) for i in (0, 1))
    found = change([(other, one) for one, other in pairs], seed=0)
    return {
        "wer_with_experts": whole.wer,
        "wer": zeroed.wer,
        "change": found.wer,
        "change_ci95": list(found.ci95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--noise", type=Path, required=True, help="babble for the noisy conditions")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("results/mome-tiny-no-experts.json"))
    args = parser.parse_args()
    rows, noise = read_manifest(args.manifest, args.split), load_noise(args.noise)
    conditions = make_conditions(mome.load().model.rate_set.rates(), LEVELS)
    whole, zeroed = (
        evaluate(transcriber, rows, conditions, noise=noise, batch_size=16)
        for transcriber in (mome.load(), without_experts(mome.load()))
    )
    command = shlex.join(["python", *sys.argv])
    document = results_document(zeroed, command=command, model="mome-tiny", data=str(args.manifest), seed=0)
    pairs = list(zip(whole, zeroed, strict=True))
    for row, (one, other) in zip(document["results"], pairs, strict=True):
        texts = zip(one.hypotheses, other.hypotheses, strict=True)
        row |= compared([(one, other)]) | {"clips_changed": sum(a.text != b.text for a, b in texts)}
    document["over_rates"] = [
        {"snr_db": level} | compared([pair for pair in pairs if pair[0].condition.snr_db == level]) for level in LEVELS
    ]
    write_json(args.out, document)


if __name__ == "__main__":
    main()
