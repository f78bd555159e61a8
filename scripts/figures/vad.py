"""Measure where speech is found and where long sound is cut, for docs/media.md; a few minutes of one core.

    PYTHONPATH=. python scripts/figures/vad.py data/grid data/speech --noise babble.flac --noise tap.opus

GRID with the word times in s1.align.json. Recordings of noise, the first one of babble, are mixed in at 0 dB.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mome.clip import SAMPLE_RATE
from mome.evaluation.result import run_document, write_json
from mome.media.noise import clip_rng, load_noise, mix
from mome.media.speech import FRAME_SECONDS, cut, speech_probabilities, speech_spans

SENTENCES, NEAR, SEED = 90, 0.1, 0
Span = tuple[float, float]


def sounds(seconds: int = 60) -> dict[str, np.ndarray]:
    """Sounds without speech, (samples,) float32."""
    rng, samples = np.random.default_rng(SEED), seconds * SAMPLE_RATE
    at = np.arange(samples) / SAMPLE_RATE
    white = rng.standard_normal(samples)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), samples)
    one = at[:SAMPLE_RATE]
    chords = []
    for _ in range(seconds):
        notes = 220 * 2 ** ((rng.integers(-5, 8) + rng.choice([0, 3, 4, 7, 12, 16], 3, replace=False)) / 12)
        chords.append(sum(np.sin(2 * np.pi * n * h * one) / h for n in notes for h in range(1, 6)) * np.exp(-2 * one))
    waves = {
        "silence": np.zeros(samples),
        "tone of 150 Hz": np.sin(2 * np.pi * 150 * at),
        "tone of 440 Hz": np.sin(2 * np.pi * 440 * at),
        "sweep from 100 Hz": np.sin(2 * np.pi * (100 + 30 * at) * at),
        "white noise": white,
        "pink noise": pink,
        "chords": np.concatenate(chords),
    }
    return {name: (0.3 * wave / max(np.abs(wave).max(), 1e-9)).astype(np.float32) for name, wave in waves.items()}


def joined(grid: Path, pauses: bool) -> tuple[np.ndarray, list[Span]]:
    """Ninety sentences in one sound, and the times of the first and last word of each."""
    rng = np.random.default_rng(SEED)
    times = json.loads((grid / "s1.align.json").read_text())
    waves, spans, now = [], [], 0
    for name in rng.choice(sorted(times), SENTENCES, replace=False):
        if pauses and waves:
            waves.append(np.zeros(round(rng.uniform(0.3, 2) * SAMPLE_RATE), np.float32))
            now += len(waves[-1])
        words = [word for word in times[name] if word[2] not in ("sil", "sp")]
        spans.append((now / SAMPLE_RATE + words[0][0], now / SAMPLE_RATE + words[-1][1]))
        waves.append(load_noise(grid / "s1" / f"{name}.mp4"))
        now += len(waves[-1])
    return np.concatenate(waves), spans


def by_energy(wave: np.ndarray) -> list[Span]:
    """Frames 15 dB above the quietest tenth are speech; pauses of 0.5 s separate, 0.2 s are added on both sides."""
    frames = wave[: len(wave) // 512 * 512].reshape(-1, 512)
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-7)
    pieces: list[Span] = []
    for frame in np.flatnonzero(level > np.percentile(level, 10) + 15):
        start, end = (frame - 6) * FRAME_SECONDS, (frame + 7) * FRAME_SECONDS
        if pieces and start - pieces[-1][1] < 0.1:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))
    return pieces


def blindly(wave: np.ndarray) -> list[Span]:
    edges = [*np.arange(0, len(wave) / SAMPLE_RATE, 9.0), len(wave) / SAMPLE_RATE]
    return list(pairwise(edges))


def judged(pieces: Sequence[Span], sentences: Sequence[Span]) -> dict[str, Any]:
    """How many neighbours are separated, how many sentences are whole in one piece, how much of them is kept."""
    edges = np.array(sorted({edge for piece in pieces for edge in piece}))
    between = [((edges >= a[1] - NEAR) & (edges <= b[0] + NEAR)).any() for a, b in pairwise(sentences)]
    holding = [[p for p in pieces if p[0] <= s[0] + NEAR and p[1] >= s[1] - NEAR] for s in sentences]
    alone = [
        any(covered([s], [p]) == covered(sentences, [p]) for p in own)
        for s, own in zip(sentences, holding, strict=True)
    ]
    return {
        "pieces": len(pieces),
        "longest_seconds": float(max((end - start for start, end in pieces), default=0.0)),
        "separated": float(np.mean(between)),
        "whole": float(np.mean([bool(own) for own in holding])),
        "alone": float(np.mean(alone)),
        "kept": float(covered(sentences, pieces) / total(sentences)),
    }


def covered(wanted: Iterable[Span], found: Sequence[Span]) -> float:
    """Seconds of ``wanted`` that lie in ``found``."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in wanted for b in found)


def total(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)


def recall(clips: Sequence[np.ndarray], words: Sequence[list[Span]] | None, noises: dict[str, Any]) -> list[Any]:
    """Share of clips in which speech is found, and of the time of words, or of speech found without noise."""
    clean = [speech_spans(speech_probabilities(wave)) for wave in clips]
    rows = []
    for name, noise in {"none": None, **noises}.items():
        found, kept = 0, 0.0
        wanted = clean if words is None else words
        for number, (wave, spans) in enumerate(zip(clips, wanted, strict=True)):
            heard = wave if noise is None else mix(wave, noise, 0.0, clip_rng(SEED, str(number)))
            spans_found = speech_spans(speech_probabilities(heard))
            found += bool(spans_found)
            kept += covered(spans, spans_found)
        rows.append({"noise": name, "clips": found / len(clips), "time": kept / sum(map(total, wanted))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--noise", type=Path, action="append", required=True)
    parser.add_argument("--clips", type=int, default=12, help="of GRID and of each split of speech")
    parser.add_argument("--out", type=Path, default=Path("results/vad.json"))
    args = parser.parse_args()
    command = shlex.join(["PYTHONPATH=.", "python", *sys.argv])
    document = run_document(command=command, model="silero-vad", data="GRID and speech", seed=SEED)
    document["versions"] |= {name: version(name) for name in ("onnxruntime", "silero-vad")}
    rng = np.random.default_rng(SEED)
    noises = {path.stem: load_noise(path) for path in args.noise}

    document["no_speech"] = []
    for name, wave in {**sounds(), **noises}.items():
        probabilities = speech_probabilities(wave)
        row = {"sound": name, "seconds": len(wave) / SAMPLE_RATE, "highest": float(probabilities.max())}
        document["no_speech"].append({**row, "found_seconds": total(speech_spans(probabilities))})

    times = json.loads((args.grid / "s1.align.json").read_text())
    names = rng.choice(sorted(times), args.clips, replace=False)
    words = [[(a, b) for a, b, word in times[name] if word not in ("sil", "sp")] for name in names]
    clips = [load_noise(args.grid / "s1" / f"{name}.mp4") for name in names]
    document["recall"] = {"GRID": recall(clips, words, noises)}
    with (args.speech / "manifest.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for split in ("test", "valid", "media"):
        paths = sorted(row["path"] for row in rows if row["split"] == split)
        chosen = rng.choice(paths, min(args.clips, len(paths)), replace=False)
        document["recall"][split] = recall([load_noise(args.speech / path) for path in chosen], None, noises)

    document["joined"], document["cost"] = [], []
    for pauses in (True, False):
        clean, sentences = joined(args.grid, pauses)
        for name, noise in {"none": None, **noises}.items():
            wave = clean if noise is None else mix(clean, noise, 0.0, clip_rng(SEED, name))
            start = time.process_time()
            probabilities = speech_probabilities(wave)
            methods = {f"speech, {n} s": [(p.start, p.end) for p in cut(probabilities, n)] for n in (10, 5)}
            seconds = time.process_time() - start
            for method, pieces in {**methods, "energy": by_energy(wave), "every 9 s": blindly(wave)}.items():
                row = {"pauses": pauses, "noise": name, "method": method, **judged(pieces, sentences)}
                document["joined"].append(row)
            document["cost"].append({"sound_seconds": len(wave) / SAMPLE_RATE, "cpu_seconds": seconds})
    write_json(args.out, document)


if __name__ == "__main__":
    main()
