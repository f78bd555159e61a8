"""A small corpus of synthetic clips for trying out training and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mome.data.manifests import ManifestRow, write_manifest
from mome.errors import MomeError
from mome.files import disk_errors
from mome.synthesis import synthesize, write_clip
from mome.text.grid import random_sentence

MOST_CLIPS = 10_000


def synthesize_corpus(folder: Path, count: int, voice: str | None = None, seed: int = 0) -> Path:
    """Write clips of random GRID sentences, all different, and their manifest.

    Of ten clips, eight are in the split train, one in valid and one in test.

    Args:
        folder: created if missing; gets ``000000.mp4``, ``000001.mp4``, … and ``manifest.csv``.
        count: number of clips.
        voice: the voice of all clips; by default each clip's seed draws one.
        seed: draws the sentences; clip ``i`` is synthesized with ``seed + i``.

    Returns:
        The path of the manifest.

    Raises:
        MomeError: ``count`` is out of range, a file cannot be written, or :func:`~mome.synthesis.talking` fails.
    """
    if not 1 <= count <= MOST_CLIPS:
        raise MomeError(f"{count} clips are not possible: give a number from 1 to {MOST_CLIPS}")
    rng, texts = np.random.default_rng(seed), dict[str, None]()
    while len(texts) < count:
        texts[random_sentence(rng)] = None
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in enumerate(texts):
        path = folder / f"{number:06d}.mp4"
        write_clip(synthesize(text, voice, seed + number), path)
        rows.append(ManifestRow(path.stem, path, {8: "valid", 9: "test"}.get(number % 10, "train"), text))
    manifest = folder / "manifest.csv"
    write_manifest(manifest, rows)
    return manifest
