"""What the comparison measured: error rates of all trainings and their uncertainty."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4000

LOSS = "loss"
Key = tuple[str, str, float | str | None]  # system, rates, signal-to-noise ratio or LOSS


@dataclass
class Cell:
    """One system at one condition: a row of the result files for each training.

    Attributes:
        rows: of the result files.
        seeds: of the trainings; none of a system that was scored from its transcripts.
        scale: 100 for error rates in per cent; 1 for losses, whose rows have cross-entropies in the place of errors
            and tokens in that of words.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    scale: float = 100.0

    @property
    def mean(self) -> float:
        """Word error rate in per cent or loss, the mean over the trainings."""
        return self.scale * statistics.mean(row["wer"] for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, over resampled test clips and trainings."""
        if any("clip_errors" not in row for row in self.rows):
            low, high = self.rows[0]["ci95"]
            return 100 * low, 100 * high
        return _interval(self._errors(), self._words(), self.scale)

    def _errors(self) -> np.ndarray:
        """(trainings, clips) wrong words."""
        return np.array([[float(count) for count in row["clip_errors"].split()] for row in self.rows])

    def _words(self) -> np.ndarray:
        """(clips,) words; GRID's sentences are equally long, and its files do not say."""
        row = self.rows[0]
        counts = row.get("clip_words")
        if counts is None:
            return np.full(row["clips"], row["words"] / row["clips"])
        return np.array([int(count) for count in counts.split()])

    def common(self, other: Cell) -> list[int]:
        """Seeds of both systems' trainings."""
        return [seed for seed in self.seeds if seed in other.seeds]

    def difference(self, other: Cell) -> tuple[float, float, float] | None:
        """How much higher this error rate or loss is than the other's, with its 95 % interval.

        Clips and trainings are drawn for both together, so what makes a clip or a seed hard for both drops out.
        """
        common = self.common(other)
        if not common:
            return None
        errors, others = (cell._errors()[[cell.seeds.index(seed) for seed in common]] for cell in (self, other))
        change = errors - others
        words = self._words()
        return (self.scale * change.mean() / words.mean(), *_interval(change, words, self.scale))


def _interval(errors: np.ndarray, words: np.ndarray, scale: float) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    trainings, clips = (rng.multinomial(size, [1 / size] * size, RESAMPLES) for size in errors.shape)
    rates = ((trainings @ errors) * clips).sum(1) / (len(errors) * (clips @ words))
    low, high = scale * np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


class Measured:
    """All result files.

    Attributes:
        cells: by system, rates and noise.
        parameters: sizes of the systems.
        outside: systems that were not trained here but scored from their transcripts.
    """

    def __init__(self, folder: Path, outside: Path) -> None:
        """Read the results of the comparison, and those of ``mome score`` in another folder."""
        self.cells: dict[Key, Cell] = defaultdict(Cell)
        self.parameters: dict[str, dict[str, int]] = {}
        self.outside: list[str] = []
        for path in sorted(folder.glob("*.json")):
            document = json.loads(path.read_text())
            self.parameters.setdefault(document["system"], document["parameters"])
            for row in document["results"]:
                cell = self.cells[document["system"], row["rates"], row["snr_db"]]
                cell.rows.append(row)
                cell.seeds.append(document["training"]["seed"])
            for rates, losses in document.get("clip_losses", {}).items():
                cell = self.cells[document["system"], rates, LOSS]
                cell.scale = 1.0
                cell.rows.append(_loss_row(losses, document["clip_tokens"]))
                cell.seeds.append(document["training"]["seed"])
        trained = [cell for (_, _, level), cell in self.cells.items() if level != LOSS]
        tested = {(row["clips"], row["words"]) for cell in trained for row in cell.rows}
        for path in sorted(outside.glob("*.json")):
            for row in json.loads(path.read_text())["results"]:
                _check_outside(path, row, set(self.parameters), tested)
                self.cells[row["system"], row["rates"] or row["task"], row["snr_db"]].rows.append(row)
                if row["system"] not in self.outside:
                    self.outside.append(row["system"])

    def cell(self, system: str, rates: str, level: float | str | None = None) -> Cell | None:
        """A system's results at ``rates``, or for a task if the system has no rates; ``None`` if there are none."""
        return self.cells.get((system, rates, level))

    def seeds(self, system: str) -> int:
        """The smallest number of trainings at any rates of a system."""
        counts = [len(cell.seeds) for (name, _, level), cell in self.cells.items() if name == system and level is None]
        return min(counts, default=0)


def _loss_row(losses: str, tokens: str) -> dict[str, Any]:
    """A row of a cell from the cross-entropies of each clip and its tokens."""
    sums = [float(loss) * int(count) for loss, count in zip(losses.split(), tokens.split(), strict=True)]
    mean = sum(sums) / sum(map(int, tokens.split()))
    return {"wer": mean, "clips": len(sums), "clip_errors": " ".join(map(str, sums)), "clip_words": tokens}


def _check_outside(path: Path, row: dict[str, Any], compared: set[str], tested: set[tuple[int, int]]) -> None:
    """Exit if the row of an outside system is not comparable."""
    if row["task"] is None:
        raise SystemExit(f"{path} does not say the task of {row['system']}: score it again with --task")
    if row["system"] in compared:
        raise SystemExit(f"{path} calls its system {row['system']}, as one of ours is: rename it and score it again")
    if (row["clips"], row["words"]) not in tested:
        clips, words = min(tested)
        raise SystemExit(
            f"{path} has {row['clips']} clips with {row['words']} words, ours {clips} with {words}: score the "
            "transcripts of the same split"
        )
