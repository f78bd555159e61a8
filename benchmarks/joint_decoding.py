"""Measure what a CTC head costs in decoding: mome-base with its head against its language model alone.

    MOME_BACKBONES=DIR python -m benchmarks.joint_decoding SPEECH/manifest.csv [--split test]

Clips of the split are transcribed one by one, both ways in turn. Times are CPU seconds of one thread, from the clip's
sound to its text; a ratio is that of one clip. The two write different texts, whose tokens are counted too.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from itertools import product
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

MODEL = "mome-base"
WAYS: dict[str, dict[str, Any]] = {"alone": {"ctc_weight": 0}, "joint": {}}
CLIPS = {1: 16, 15: 5}
"""Clips by beams."""


def compare(transcriber: mome.Transcriber, clips: list[Clip], rates: Rates, beams: int) -> dict[str, Any]:
    """A row of the results."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    tokens = dict.fromkeys(WAYS, 0)
    for number, clip in enumerate([clips[0], *clips]):
        for way, options in WAYS.items():
            began = time.thread_time()
            transcript = transcriber.transcribe_batch([clip], [rates], num_beams=beams, **options)[0][0]
            if number:  # the first warms up
                seconds[way].append(time.thread_time() - began)
                tokens[way] += len(transcriber.processor.tokenizer(transcript.text).input_ids)
    ratios = [joint / alone for alone, joint in zip(seconds["alone"], seconds["joint"], strict=True)]
    return {
        "rates": str(rates),
        "beams": beams,
        "clips": len(clips),
        "seconds": {way: sum(each) for way, each in seconds.items()},
        "tokens": tokens,
        "joint_over_alone": median(ratios),
        "joint_over_alone_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/joint_decoding.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = random.Random(0).sample(read_manifest(args.manifest, args.split, silence=True), max(CLIPS.values()))
    clips = [load_clip(row.path, video=False) for row in rows]
    command = shlex.join(["python", "-m", "benchmarks.joint_decoding", *sys.argv[1:]])
    document = run_document(command=command, model=MODEL, data=str(args.manifest), seed=0)
    document["machine"] = machine(torch.device("cpu"))
    transcriber = mome.load(MODEL, device="cpu")
    found = []
    for rate, (beams, number) in product((4, 16), CLIPS.items()):
        found.append(compare(transcriber, clips[:number], Rates(rate, None), beams))
        print(rate, beams, f"{found[-1]['joint_over_alone']:.2f}", flush=True)
    write_json(args.out, {**document, "decodings": found})


if __name__ == "__main__":
    main()
