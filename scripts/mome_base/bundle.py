"""Turn a run into the bundled model of English: trained parts in half precision, and a model card.

    python -m scripts.mome_base.bundle src/mome/mome-base [--run runs/mome-base-first --run runs/mome-base]
        [--ctc runs/mome-base-head/align] [--curve results/mome-base-training.json] [--results results/mome-base-*.json]

Without --run and --ctc only the card is written again; --ctc gives the bundled model another CTC head. The curve is
what the training's validations found. The frozen parts stay where they are, and the tokenizer with the language model:
config.json refers to them by their hub ids.
"""

from __future__ import annotations

import argparse
import json
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mome
from mome.checkpoints.folder import WEIGHTS
from mome.checkpoints.names import TOKENIZER_FILES
from mome.evaluation.result import write_json
from mome.training.alignment import keep_head
from scripts.mome_tiny.bundle import halve

CARD = Path(__file__).parent / "card.md"
LARGEST = 15e6  # bytes
SHARE = 0.5  # of the CTC head in the score of a token
SYSTEMS = {"mome-base": "mome-base", "mome-base-lm": "its language model alone"}
"""Systems by the beginning of the name of a results file that does not name one."""


def table(files: list[Path]) -> str:
    """Word error rates as a Markdown table: a row for each system and rate, a column for each file's split."""
    splits: dict[str, dict[str, str]] = {}
    for file in files:
        for row in json.loads(file.read_text())["results"]:
            system = row.get("system") or SYSTEMS[file.stem.rpartition("-")[0]]
            name = f"{system} | {row['rates'].partition(',')[0] if row['rates'] else '–'}"
            low, high = (f"{100 * end:.1f}" for end in row["ci95"])
            splits.setdefault(name, {})[file.stem.rpartition("-")[2]] = f"{100 * row['wer']:.1f} ({low}–{high})"
    columns = sorted({split for row in splits.values() for split in row})
    lines = ["| system | rate | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    lines += [
        f"| {name} | " + " | ".join(row.get(split, "–") for split in columns) + " |" for name, row in splits.items()
    ]
    return "\n".join(lines)


def curve(run: Path) -> dict[str, Any]:
    """Word error rates of a run's validation voices by step, with the mean training loss since the last validation."""
    points, losses = [], []
    history = json.loads((run / "history.json").read_text())
    for entry in history:
        losses += [entry["loss"]] if "loss" in entry else []
        rates = {name.partition("/")[2]: value for name, value in entry.items() if name.startswith("eval_wer/")}
        if rates:
            mean = round(statistics.mean(losses), 3)
            points.append({"step": entry["step"], "epoch": entry["epoch"], "training_loss": mean, "wer": rates})
            losses = []
    return {
        "seconds": history[-1]["train_runtime"],
        "points": points,
        "recipe": (run / "recipe.yaml").read_text(),
    }


def rules(tokenizer: Any) -> tuple[str, dict[str, str]]:
    """All that a tokenizer makes of texts and ids."""
    return tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, action="append", default=[], help="a stage's; the last is bundled")
    parser.add_argument("--ctc", type=Path, help="folder of an alignment, whose connector becomes the CTC head")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="JSON of mome evaluate and mome score")
    parser.add_argument("--curve", type=Path, help="JSON file to write, with --run or --ctc")
    args = parser.parse_args()
    if args.curve:
        versions = {name: version(name) for name in ("mome", "torch", "transformers")}
        stages = [*args.run, *([args.ctc] if args.ctc else [])]
        write_json(args.curve, {"versions": versions, "stages": [curve(run) for run in stages]})
    if args.run or args.ctc:
        trained = mome.load(args.run[-1] if args.run else args.out)
        if args.ctc:
            keep_head(trained.model, args.ctc, SHARE)
        trained.model.save_pretrained(args.out)
        trained.processor.save_pretrained(args.out)
        halve(args.out / WEIGHTS)
        for name in (*TOKENIZER_FILES, "chat_template.jinja"):
            (args.out / name).unlink(missing_ok=True)
    bundled = mome.load(args.out)
    if (args.run or args.ctc) and rules(bundled.processor.tokenizer) != rules(trained.processor.tokenizer):
        raise SystemExit(f"the run's tokenizer is not that of {bundled.model.config.language_model}")
    learned = sum(value.numel() for value in bundled.model.trained_state_dict().values())
    card = CARD.read_text().replace("{trained}", f"{learned / 1e6:.2f}").replace("{table}", table(args.results))
    (args.out / "README.md").write_text(card)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB, {learned / 1e6:.2f} M trained parameters")
    if size > LARGEST:
        raise SystemExit(f"{args.out} has more than {LARGEST / 1e6:g} MB")


if __name__ == "__main__":
    main()
