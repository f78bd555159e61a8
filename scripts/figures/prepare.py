"""Measure what docs/data.md says of prepared corpora: their size, and what the crops and the sound lose.

PYTHONPATH=. python scripts/figures/prepare.py GRID SPEECH/manifest.csv
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np

from mome.clip import SAMPLE_RATE
from mome.data import prepare as module
from mome.data.manifests import ManifestRow, read_manifest
from mome.data.prepare import CRF, encode_mouth, encode_sound, prepare, shards
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip

CRFS = (0, 16, 18, 20, 22, 24)
LRS3_HOURS = 433


def sound_kb(sounds: list[np.ndarray]) -> float:
    """Kilobytes of FLAC for 3 s."""
    return sum(len(encode_sound(sound)) for sound in sounds) / sum(map(len, sounds)) * SAMPLE_RATE * 3 / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("speech", type=Path, help="manifest of open speech, for its sound")
    parser.add_argument("--out", type=Path, default=Path("results/prepare.json"))
    given = parser.parse_args()
    paths = [*sorted(given.grid.glob("s1/*.mp4"))[::160], *sorted(given.grid.glob("other/*.mp4"))]
    rows = [ManifestRow(str(number), path, "test", "") for number, path in enumerate(paths)]
    clips = [load_clip(row.path) for row in rows]
    seconds = sum(clip.seconds for clip in clips)
    with tempfile.TemporaryDirectory() as folder:
        prepare(shards(rows), Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.tar"))
        crops, losses = [], []
        for crf in CRFS:
            film, bytes_, differences = Path(folder) / "film.mp4", 0, []
            for clip in clips:
                film.write_bytes(encode_mouth(clip.mouth, crf))
                bytes_ += film.stat().st_size
                differences.append(np.abs(load_clip(film).mouth.astype(int) - clip.mouth).mean())
            crops.append(
                {"crf": crf, "kb_per_3_s": bytes_ / seconds * 3 / 1e3, "difference": float(np.mean(differences))}
            )
        for row, clip in zip(rows, clips, strict=True):
            sound = load_clip(Path(folder) / "test-00000.tar" / f"{row.id}.flac").audio
            losses.append(10 * np.log10(np.mean(clip.audio**2) / np.mean((sound - clip.audio) ** 2)))
    sounds = {"grid": [clip.audio for clip in clips]}
    spoken = read_manifest(given.speech, "test")
    sounds["speech"] = [load_clip(row.path, video=False, excerpt=row.excerpt).audio for row in spoken]
    sizes = {name: sound_kb(own) for name, own in sounds.items()}
    with patch.object(module, "ROUNDING", math.inf):
        exact = {name: sound_kb(own) for name, own in sounds.items()}
    kb = size / seconds * 3 / 1e3
    figures = {
        "clips": len(clips),
        "seconds": seconds,
        "crf": CRF,
        "kb_per_3_s": kb,
        "lrs3_gb": kb * 1200 * LRS3_HOURS / 1e6,
        "lrs3_gb_with_sound_of_speech": (kb - sizes["grid"] + sizes["speech"]) * 1200 * LRS3_HOURS / 1e6,
        "arrays_kb_per_3_s": sum(clip.mouth.nbytes + clip.audio.nbytes for clip in clips) / seconds * 3 / 1e3,
        "sound_kb_per_3_s": sizes,
        "sound_of_16_bits_kb_per_3_s": exact,
        "crops": crops,
        "sound_snr_db": float(np.mean(losses)),
    }
    document = run_document(
        command="python scripts/figures/prepare.py grid speech/manifest.csv", model=None, data="grid, speech", seed=0
    )
    write_json(given.out, {**document, **figures})
    print(figures)


if __name__ == "__main__":
    main()
