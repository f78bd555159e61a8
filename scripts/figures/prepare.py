"""Measure what docs/data.md says of prepared corpora: their size, and what the crops and the sound lose.

PYTHONPATH=. python scripts/figures/prepare.py CLIP…
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from mome.data.manifests import ManifestRow
from mome.data.prepare import CRF, encode_mouth, prepare, shards
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip

CRFS = (0, 16, 18, 20, 21, 23)
LRS3_HOURS = 433


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
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
    figures = {
        "clips": len(clips),
        "seconds": seconds,
        "crf": CRF,
        "kb_per_3_s": size / seconds * 3 / 1e3,
        "lrs3_gb": size / seconds * 3600 * LRS3_HOURS / 1e9,
        "arrays_kb_per_3_s": sum(clip.mouth.nbytes + clip.audio.nbytes for clip in clips) / seconds * 3 / 1e3,
        "crops": crops,
        "sound_snr_db": float(np.mean(losses)),
    }
    document = run_document(command="python scripts/figures/prepare.py grid", model=None, data="grid", seed=0)
    write_json(given.out, {**document, **figures})
    print(figures)


if __name__ == "__main__":
    main()
