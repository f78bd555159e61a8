"""Measure mome-base with its language model in float32, bfloat16 and 8 bits: time, memory and word error rate.

    MOME_BACKBONES=DIR python -m benchmarks.fewer_bits SPEECH/manifest.csv [--split test]

Clips of the split are transcribed at rate 4 one by one, by all models in turn; ``bfloat16`` is the whole model. Times
are CPU seconds of one thread, from the clip's sound to its text; a ratio is that of one clip. Memory is that of a
process of its own that loads the model and transcribes the first clip.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

import mome
from mome.analysis.cost import machine
from mome.clip import Clip
from mome.data.manifests import read_manifest
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip
from mome.rates import Rates
from mome.text.wer import WordErrors, paired_interval, word_errors

MODEL, RATES = "mome-base", Rates(4, None)
MODELS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"language_model_dtype": "int8"},
}
CLIPS = {1: 24, 15: 5}
"""Clips by beams."""


def memory(options: dict[str, str], clip: Clip) -> dict[str, int]:
    """Bytes of a process's memory at most, and once it has loaded the model and transcribed a clip."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    transcriber = mome.load(MODEL, device="cpu", **options)
    transcriber.transcribe_batch([clip], [RATES])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    weights = [*transcriber.model.language_model.parameters(), *transcriber.model.language_model.buffers()]
    return {
        "program_bytes": 1024 * before,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "resident_bytes": pages * resource.getpagesize(),
        "language_model_bytes": sum(weight.nbytes for weight in weights),
    }


def compare(transcribers: dict[str, Any], clips: list[Clip], texts: list[str], beams: int) -> list[dict[str, Any]]:
    """Times and errors of each model with so many beams."""
    seconds: dict[str, list[float]] = {name: [] for name in transcribers}
    written: dict[str, list[str]] = {name: [] for name in transcribers}
    for number, clip in enumerate([clips[0], *clips]):
        for name, transcriber in transcribers.items():
            began = time.thread_time()
            transcript = transcriber.transcribe_batch([clip], [RATES], num_beams=beams)[0][0]
            if number:  # the first warms up
                seconds[name].append(time.thread_time() - began)
                written[name].append(transcript.text)
    base, *_ = seconds
    errors = {name: word_errors(texts, found) for name, found in written.items()}
    rows = []
    for name in transcribers:
        ratios = [one / other for one, other in zip(seconds[base], seconds[name], strict=True)]
        counts, first = ([one.errors for one in errors[which]] for which in (name, base))
        words = [one.words for one in errors[name]]
        rows.append(
            {
                "model": name,
                "beams": beams,
                "clips": len(clips),
                "seconds": sum(seconds[name]),
                "rtf": sum(seconds[name]) / sum(clip.seconds for clip in clips),
                "float32_over_this": median(ratios),
                "float32_over_this_range": [min(ratios), max(ratios)],
                "wer": sum(errors[name], WordErrors()).wer,
                "wer_above_float32": paired_interval(counts, first, words, seed=0),
                "same_text": sum(one == other for one, other in zip(written[name], written[base], strict=True)),
            }
        )
    return rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/fewer_bits.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = random.Random(0).sample(read_manifest(args.manifest, args.split, silence=True), max(CLIPS.values()))
    clips = [load_clip(row.path, video=False) for row in rows]
    command = shlex.join(["python", "-m", "benchmarks.fewer_bits", *sys.argv[1:]])
    document: dict[str, Any] = {
        **run_document(command=command, model=MODEL, data=str(args.manifest), seed=0),
        "machine": machine(torch.device("cpu")),
        "rates": str(RATES),
        "clips": [row.id for row in rows],
        "memory": {},
        "searches": [],
    }
    for name, options in MODELS.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            document["memory"][name] = alone.submit(memory, options, clips[0]).result()
        print(name, {what: f"{size / 1e6:.0f} MB" for what, size in document["memory"][name].items()}, flush=True)
    transcribers = {name: mome.load(MODEL, device="cpu", **options) for name, options in MODELS.items()}
    for beams, count in CLIPS.items():
        texts = [row.text for row in rows[:count]]
        document["searches"] += compare(transcribers, clips[:count], texts, beams)
        write_json(args.out, document)
        for row in document["searches"][-len(MODELS) :]:
            low, high = row["float32_over_this_range"]
            print(
                f"{beams:2} beams, {row['model']:9} {row['seconds']:7.2f} s, float32/this "
                f"{row['float32_over_this']:.2f} ({low:.2f} to {high:.2f}), WER {100 * row['wer']:.1f} %, "
                f"{row['same_text']} of {count} texts the same",
                flush=True,
            )


if __name__ == "__main__":
    main()
