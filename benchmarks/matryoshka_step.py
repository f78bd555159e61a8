"""Measure a Matryoshka step, which reads the same clips at four rates: time beside separate passes, and memory.

    python -m benchmarks.matryoshka_step [--turns 5]

The language model is random with the widths of Llama-3.2-1B, or of SmolLM2-135M, but few layers; MoME's experts beside
every layer. ``separate``: forward and backward pass of each rate in turn. ``full``: the same with logits for all
positions. ``joint``: separate forward passes, one backward pass. ``step``: what training does, rates that begin alike
together. ``spare``: the same with ``spare_memory``. ``one``: forward and backward pass at (4,2) alone. Times are CPU
seconds of one thread, the ways in turn; a ratio is that of one turn. Memory is the most that a process of its own held,
less what it held before the first step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, WhisperConfig

from mome.adapters import adapter_parameters, load_balancing_loss
from mome.analysis.cost import machine
from mome.config import MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.evaluation.result import run_document, write_json
from mome.features import Features
from mome.model import MomeForSpeechRecognition, forcing
from mome.model.model import EncodedClips
from mome.rates import Rates

RATES = [Rates(4, 2), Rates(4, 5), Rates(16, 2), Rates(16, 5)]
PROMPT = 7
FEATURES = 32
WIDTHS = {
    "Llama-3.2-1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "SmolLM2-135M": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3},
    "512": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 2},
}


@dataclass(frozen=True)
class Case:
    """Sizes of a model, and the clips that it reads."""

    widths: str
    layers: int
    vocabulary: int
    seconds: tuple[float, ...]
    words: int
    ways: tuple[str, ...]

    def model(self) -> MomeForSpeechRecognition:
        """A random model in training mode."""
        torch.manual_seed(0)
        text = LlamaConfig(
            vocab_size=self.vocabulary,
            num_hidden_layers=self.layers,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **WIDTHS[self.widths],
        )
        tiny = {"num_hidden_layers": 1, "num_attention_heads": 2}
        config = MomeConfig(
            audio_config=WhisperConfig(
                d_model=FEATURES, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32
            ),
            video_config=AVHubertConfig(hidden_size=FEATURES, intermediate_size=32, resnet_width=2, **tiny),
            text_config=text,
            audio_rates=(4, 16),
            video_rates=(2, 5),
            prompt_ids={task: [3] * PROMPT for task in ("avsr", "asr", "vsr")},
            start_ids=[1],
            adapter={"type": "mome", "bottleneck": 12},
        )
        model = MomeForSpeechRecognition(config)
        for _, value in adapter_parameters(model):
            torch.nn.init.normal_(value, std=0.02)
        return model.train()

    def inputs(self) -> tuple[EncodedClips, Tensor]:
        """Random features and transcripts."""
        torch.manual_seed(1)
        sides = []
        for rate in (50, 25):
            lengths = torch.tensor([round(seconds * rate) for seconds in self.seconds])
            sides.append(Features(torch.randn(len(lengths), int(lengths.max()), FEATURES), lengths))
        return EncodedClips(*sides), torch.randint(3, self.vocabulary, (len(self.seconds), self.words))


def full_loss(model: MomeForSpeechRecognition, encoded: EncodedClips, labels: Tensor, rates: Rates) -> Tensor:
    """The loss of a pass as a language model has it by itself: with logits for all positions."""
    inputs = model.assemble(model.connect(encoded, [rates] * len(labels)), [rates] * len(labels), labels)
    context = model.adapter_context(inputs.rates, inputs.mask)
    logits = model.language_model(
        inputs_embeds=inputs.embeddings,
        attention_mask=inputs.mask.long(),
        position_ids=inputs.positions,
        use_cache=False,
        adapter_context=context,
    ).logits.float()
    steps = labels.shape[1]
    targets = torch.full(logits.shape[:2], -100)
    targets[:, -steps:] = labels
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss + model.config.balance_weight * load_balancing_loss(context)


def step(model: MomeForSpeechRecognition, encoded: EncodedClips, labels: Tensor, way: str) -> None:
    """Forward and backward passes in one of the ways."""
    model.zero_grad()
    given = {"encoded": encoded, "labels": labels}
    if way == "full":
        for rates in RATES:
            full_loss(model, encoded, labels, rates).backward()
    elif way in ("separate", "one"):
        for rates in RATES if way == "separate" else RATES[:1]:
            model(**given, rates=rates).loss.backward()
    else:
        least = float("inf") if way == "joint" else forcing._LEAST_SHARED
        with patch.object(forcing, "_LEAST_SHARED", least):
            model(**given, matryoshka=RATES, spare_memory=way == "spare").loss.backward()


def times(case: Case, turns: int) -> dict[str, Any]:
    """Seconds of each way, and the ratio of the step's and each other way's in the same turn."""
    model, (encoded, labels) = case.model(), case.inputs()
    seconds: dict[str, list[float]] = {way: [] for way in case.ways}
    for turn in range(-1, turns):  # the first warms up
        for way in case.ways:
            began = time.thread_time()
            step(model, encoded, labels, way)
            if turn >= 0:
                seconds[way].append(time.thread_time() - began)
    row: dict[str, Any] = {**case.__dict__}
    for way, column in seconds.items():
        row[way] = {"seconds": median(column), "seconds_range": [min(column), max(column)]}
        ratios = [ours / other for ours, other in zip(seconds["step"], column, strict=True)]
        row[way] |= {"step_over_this": median(ratios), "step_over_this_range": [min(ratios), max(ratios)]}
    return row


def deeper(heads: dict[str, Any], trunk: dict[str, Any], layers: int) -> dict[str, float]:
    """What the medians of a model with a large vocabulary and of its further layers say about more layers."""
    further = (layers - heads["layers"]) / trunk["layers"]
    full = heads["full"]["seconds"] + further * trunk["separate"]["seconds"]
    step = heads["step"]["seconds"] + further * trunk["step"]["seconds"]
    return {"layers": layers, "full_seconds": full, "step_seconds": step, "step_over_full": step / full}


def peak(case: Case, way: str) -> dict[str, Any]:
    """Megabytes that this process held before two steps, and at most."""
    model, (encoded, labels) = case.model(), case.inputs()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(2):
        step(model, encoded, labels, way)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"before": pages * resource.getpagesize() / 1e6, "peak": most * 1024 / 1e6}


TRUNK = Case("Llama-3.2-1B", 3, 64, (10,), 30, ("separate", "step", "spare", "one"))
HEADS = Case("Llama-3.2-1B", 1, 128_256, (10,), 30, ("full", "step"))
SMALL = [
    Case("SmolLM2-135M", 4, 49_152, seconds, 12, ("separate", "step", "spare"))
    for seconds in ((3,) * 8, (1, 2, 3, 4, 5, 6, 7, 8))
]
MEMORY = Case("512", 6, 64, (10,) * 8, 30, ("joint", "step", "spare"))


def report(row: dict[str, Any]) -> None:
    """Print a line for each way."""
    for way in row["ways"]:
        if way != "step":
            low, high = row[way]["step_over_this_range"]
            name = f"{row['widths']}, {row['layers']} layers, vocabulary {row['vocabulary']}, {row['seconds']} s"
            print(f"{name}: step/{way} {row[way]['step_over_this']:.3f} ({low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peak", choices=MEMORY.ways, help="print the memory of one way alone")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/matryoshka_step.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(json.dumps(peak(MEMORY, args.peak)))
        return
    command = shlex.join(["python", "-m", "benchmarks.matryoshka_step", *sys.argv[1:]])
    held = {}
    for way in MEMORY.ways:
        again = [sys.executable, "-m", "benchmarks.matryoshka_step", "--peak", way]
        # Memory that is freed is given back at once, so that what a process holds is what it uses.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
        held[way] = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    added = {way: values["peak"] - values["before"] for way, values in held.items()}
    memory = {way: {**values, "added_over_joint": added[way] / added["joint"]} for way, values in held.items()}
    for way, values in memory.items():
        print(f"memory {way}: {added[way]:.0f} MB, over joint {values['added_over_joint']:.2f}", flush=True)
    document = {
        **run_document(command=command, model="random Llama", data="random", seed=0),
        "machine": machine(torch.device("cpu")),
        "turns": args.turns,
        "rates": [str(rates) for rates in RATES],
        "memory": {"case": MEMORY.__dict__, **memory},
        "times": [],
    }
    for case in (TRUNK, HEADS, *SMALL):
        document["times"].append(times(case, args.turns))
        report(document["times"][-1])
        write_json(args.out, document)
    trunk, heads, *_ = document["times"]
    document["full_depth"] = deeper(heads, trunk, 16)
    print(f"16 layers, vocabulary 128256: step/full {document['full_depth']['step_over_full']:.3f}")
    write_json(args.out, document)


if __name__ == "__main__":
    main()
