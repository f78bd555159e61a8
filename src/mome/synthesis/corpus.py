"""A small corpus of synthetic clips, to try training and evaluation on."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from mome.errors import MomeError
from mome.files import disk_errors, write_text
from mome.synthesis import synthesize, write_clip
from mome.text.grid import random_sentence

MOST_CLIPS = 10_000


def synthesize_corpus(folder: Path, count: int, voice: str | None = None, seed: int = 0) -> Path:
    """Write clips of different random GRID sentences and their manifest, a CSV file, to a folder.

    Of ten clips, eight are in the split train, one in valid and one in test.

    Args:
        folder: made if it is not there; ``000000.mp4``, ``000001.mp4``, … and ``manifest.csv`` are written to it.
        count: number of clips.
        voice: who speaks; by default each clip's seed draws one.
        seed: draws the sentences; clip ``i`` has the seed ``seed + i``.

    Returns:
        The manifest.

    Raises:
        MomeError: the number is not possible, a file cannot be written, or see :func:`~mome.synthesis.synthesize`.
    """
    if not 1 <= count <= MOST_CLIPS:
        raise MomeError(f"{count} clips are not possible: give a number from 1 to {MOST_CLIPS}")
    rng, texts = np.random.default_rng(seed), dict[str, None]()
    while len(texts) < count:
        texts[random_sentence(rng)] = None
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sheet = io.StringIO()
    rows = csv.writer(sheet, lineterminator="\n")
    rows.writerow(("id", "path", "split", "text"))
    for number, text in enumerate(texts):
        name = f"{number:06d}"
        write_clip(synthesize(text, voice, seed + number), folder / f"{name}.mp4")
        rows.writerow((name, f"{name}.mp4", {8: "valid", 9: "test"}.get(number % 10, "train"), text))
    manifest = folder / "manifest.csv"
    write_text(manifest, sheet.getvalue())
    return manifest
