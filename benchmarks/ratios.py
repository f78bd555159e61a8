"""Print the ratios of results/benchmarks/ beside the committed ones and their goals, and write them to the docs.

    python -m benchmarks.ratios [--write]

Ratios of which nothing is known are left out. ``--write`` puts the table into docs/performance.md, with a column for
each processor: results of a second one are kept in a folder of their own, such as results/benchmarks/xeon/.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path("results/benchmarks")
DOCS = Path("docs/performance.md")


@dataclass(frozen=True)
class Ratio:
    """What is measured, the file that has it, how to find it there, and the goal, as ``<= 1.05``."""

    what: str
    file: str
    find: Callable[[Any], float]
    goal: str

    def of(self, document: Any) -> float | None:
        """The ratio, if the document has it."""
        try:
            return float(self.find(document))
        except (KeyError, IndexError, TypeError, StopIteration):
            return None

    def is_met(self, value: float) -> bool:
        """Whether it reaches the goal."""
        sign, number = self.goal.split()
        return value <= float(number) if sign == "<=" else value >= float(number)


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The first row with these values."""
    return next(each for each in rows if all(each.get(name) == value for name, value in wanted.items()))


def experts() -> list[Ratio]:
    """MoME-23/4 with bottleneck 12 beside a layer of Llama-3.2-1B's widths."""
    found = []
    goals = {
        ("bfloat16", "beams"): ("<= 1.05", "<= 1.02"),
        ("float32", "beams"): ("<= 1.03", None),
        ("bfloat16", "prompt"): ("<= 1.02", None),
        ("bfloat16", "training"): ("<= 1.04", None),
        ("float32", "training"): ("<= 1.04", None),
    }
    for (dtype, what), (plain, lora) in goals.items():
        case = {"dtype": dtype, "what": what}
        name = {"beams": "15 beams", "prompt": "prompt of 700", "training": "training"}[what]
        for key, other, goal in (("mome_over_plain", "layer", plain), ("mome_over_lora", "layer with LoRA-64", lora)):
            if goal is not None:
                title = f"layer with experts / {other}, {name}, {dtype}"
                found.append(Ratio(title, "experts", lambda d, c=case, k=key: row(d["times"], **c)[k], goal))
    return [
        *found,
        Ratio(
            "activations saved for training, experts / layer, bfloat16",
            "experts",
            lambda d: row(d["times"], dtype="bfloat16", what="training")["mome_added_saved"],
            "<= 0.08",
        ),
    ]


def step() -> list[Ratio]:
    """A training step on four pairs of rates."""
    widths = {"widths": "Llama-3.2-1B", "layers": 3}
    return [
        Ratio(
            "four rates together / one by one, layers alone",
            "matryoshka_step",
            lambda d: row(d["times"], **widths)["separate"]["step_over_this"],
            "<= 0.80",
        ),
        Ratio(
            "four rates together / (4,2) alone, layers alone",
            "matryoshka_step",
            lambda d: row(d["times"], **widths)["one"]["step_over_this"],
            "<= 2.3",
        ),
        Ratio(
            "four rates together / one by one with all logits, 16 layers, vocabulary 128k",
            "matryoshka_step",
            lambda d: d["full_depth"]["step_over_full"],
            "<= 0.70",
        ),
        Ratio(
            "peak memory, one rate at a time / jointly",
            "matryoshka_step",
            lambda d: d["memory"]["spare"]["added_over_joint"],
            "<= 0.45",
        ),
    ]


def beams() -> list[Ratio]:
    """15 beams, 32 tokens."""
    goals = {"float32": ("1.8", "3.2", "6.4"), "bfloat16": ("4.7", "6.8", "10")}
    found = [
        Ratio(
            f"Transformers' beam search / ours, prefix {prefix}, {dtype}",
            "beam_search",
            lambda d, t=dtype, p=prefix: row(d["searches"], dtype=t, prefixes=[p], experts=False)[
                "transformers_over_ours"
            ],
            f">= {goal}",
        )
        for dtype, own in goals.items()
        for prefix, goal in zip((88, 257, 757), own, strict=True)
    ]
    mixed = [88, 112, 136, 160, 184, 208, 232, 257]
    return [
        *found,
        Ratio(
            "same, batch of 8 lengths, float32",
            "beam_search",
            lambda d: row(d["searches"], prefixes=mixed)["transformers_over_ours"],
            ">= 2.4",
        ),
        *(
            Ratio(
                f"keys and values, Transformers' / ours, prefix {prefix}",
                "beam_search",
                lambda d, p=prefix: row(d["searches"], dtype="float32", prefixes=[p], experts=False)[
                    "cache_transformers_over_ours"
                ],
                f">= {goal}",
            )
            for prefix, goal in ((88, 3), (257, 6), (757, 9))
        ),
    ]


def programs() -> list[Ratio]:
    """Whole programs, and the server."""
    return [
        Ratio(
            "Whisper in its window / on the clip and 1 s of silence, 5 s",
            "encoders",
            lambda d: row(d["times"], seconds=5, silence=1.0)["window_over_this"],
            ">= 6",
        ),
        Ratio(
            "film to mouth crops and sound / real time",
            "reading",
            lambda d: d["reading"]["some_frames"]["share_of_real_time"],
            "<= 0.3",
        ),
        Ratio(
            "mome-base (4,-) in float32 / language model in int8",
            "fewer_bits",
            lambda d: row(d["searches"], model="int8", beams=1)["float32_over_this"],
            ">= 1",
        ),
        Ratio(
            "mome-tiny on GRID, 15 beams: without this package's search and experts / with",
            "transcription",
            lambda d: row(d["grid"], name="batch 1, beams 15")["times_as_fast"],
            ">= 3",
        ),
        Ratio(
            "mome-base on speech, 15 beams: without / with",
            "transcription",
            lambda d: row(d["beams"], name="batch 1, beams 15")["times_as_fast"],
            ">= 3",
        ),
        Ratio(
            "faster-whisper, int8 / mome-base (16,-), bfloat16, clip by clip",
            "transcription",
            lambda d: row(d["speech"], name="mome-base 16,-, bfloat16, batch 1")["times_as_fast"],
            ">= 1",
        ),
        *(
            Ratio(
                f"server / one request at a time, 64 at once, {work}",
                "serving",
                lambda d, w=work: row(d["rows"], work=w, concurrency=64)["ratio"],
                ">= 3",
            )
            for work in ("lips and sound", "sound", "speech")
        ),
    ]


@cache
def committed(file: str) -> Any:
    """The document as it is in git; ``None`` if it is not."""
    shown = subprocess.run(["git", "show", f"HEAD:./{FOLDER / file}.json"], capture_output=True, text=True)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


@cache
def now(file: str) -> Any:
    """The document as it is in the folder; ``None`` if it is not."""
    path = FOLDER / f"{file}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@cache
def measured(file: str) -> dict[str, Any]:
    """The documents of this name by the processor that they are of."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.rglob(f"{file}.json")]
    return {each["machine"]["cpu"].replace("(R)", "").removesuffix(" Processor"): each for each in found}


def shown(value: float | None) -> str:
    """A ratio as text."""
    return "–" if value is None else f"{value:.3f}" if value < 2 else f"{value:.2f}"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    given = parser.parse_args()
    ratios = [*experts(), *step(), *beams(), *programs()]
    if given.write:
        processors = sorted({name for each in ratios for name in measured(each.file)})
        lines = [f"| ratio | goal | {' | '.join(processors)} |", "| --- | --- |" + " --- |" * len(processors)]
        for each in ratios:
            values = [each.of(measured(each.file).get(name)) for name in processors]
            if any(value is not None for value in values):
                marks = ["" if value is None or each.is_met(value) else " (missed)" for value in values]
                cells = [shown(value) + mark for value, mark in zip(values, marks, strict=True)]
                lines.append(
                    f"| {each.what} | {each.goal.replace('<=', '≤').replace('>=', '≥')} | {' | '.join(cells)} |"
                )
        table = "\n".join(lines)
        text = DOCS.read_text(encoding="utf-8")
        whole = re.compile(r"(<!-- table: ratios -->\n).*?(<!-- end -->)", re.DOTALL)
        DOCS.write_text(whole.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8")
        return
    print(f"{'ratio':<90} {'goal':>8} {'git':>8} {'here':>8}")
    for each in ratios:
        before, after = each.of(committed(each.file)), each.of(now(each.file))
        missed = "" if after is None or each.is_met(after) else "  missed"
        print(f"{each.what:<90} {each.goal:>8} {shown(before):>8} {shown(after):>8}{missed}")


if __name__ == "__main__":
    main()
