"""Turn a trained run into the bundled model: half-precision matrices, and a model card.

    python scripts/mome_tiny/bundle.py src/mome/mome-tiny [--run runs/mome-tiny]
        [--results results/mome-tiny-test.json --no-experts results/mome-tiny-no-experts.json]

Without --run only the card is written again. Matrices are stored in float16, vectors and batch-norm statistics in
float32; loading makes float32 of all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import mome
from mome.adapters.files import save_tensors

CARD = Path(__file__).parent / "card.md"


def halve(file: Path) -> None:
    """Store the matrices of a safetensors file in float16."""
    tensors = {
        key: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for key, value in load_file(file).items()
    }
    save_tensors(tensors, file, {"format": "pt"})


def table(results: list[dict]) -> str:
    """Word error rates as a Markdown table."""
    lines = ["| task | rates | noise | WER % | 95 % interval | clips |", "|---|---|---|---|---|---|"]
    for one in results:
        noise = "none" if one["snr_db"] is None else f"babble, {one['snr_db']:g} dB"
        low, high = one["ci95"]
        lines.append(
            f"| {one['task'].upper()} | {one['rates']} | {noise} | {100 * one['wer']:.1f} "
            f"| {100 * low:.1f} – {100 * high:.1f} | {one['clips']} |"
        )
    return "\n".join(lines)


def experts(levels: list[dict]) -> str:
    """What no_experts.py measured over all rates, in a sentence."""
    told = []
    for name, level in (("clean speech", None), ("babble at 0 dB", 0.0)):
        (one,) = (one for one in levels if one["snr_db"] == level)
        low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in one["change_ci95"])
        errors = f"{100 * one['wer']:.1f} % instead of {100 * one['wer_with_experts']:.1f} %"
        told.append(f"{errors} in {name} (95 % interval of the difference {low} to {high})")
    return f"With all of them set to zero, and nothing trained again, its word error rate is {' and '.join(told)}."


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--results", type=Path, help="JSON of `mome evaluate` for the card's table")
    parser.add_argument("--no-experts", type=Path, help="JSON of no_experts.py for the card's sentence about experts")
    args = parser.parse_args()
    if args.run:
        trained = mome.load(args.run)
        trained.model.save_pretrained(args.out, self_contained=True)
        trained.processor.save_pretrained(args.out)
        for file in args.out.rglob("*.safetensors"):
            halve(file)
    model = mome.load(args.out).model
    parameters = sum(p.numel() for p in model.parameters())
    learned = sum(v.numel() for v in model.trained_state_dict().values())
    card = (
        CARD.read_text().replace("{parameters}", f"{parameters / 1e6:.1f}").replace("{trained}", f"{learned / 1e6:.2f}")
    )
    if args.results:
        card = card.replace("{table}", table(json.loads(args.results.read_text())["results"]))
    if args.no_experts:
        card = card.replace("{experts}", experts(json.loads(args.no_experts.read_text())["over_rates"]))
    (args.out / "README.md").write_text(card)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB, {parameters / 1e6:.2f} M parameters, {torch.__version__=}")


if __name__ == "__main__":
    main()
