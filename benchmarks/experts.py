"""Measure what MoME's experts add to a language model's layers, beside LoRA and the layers alone.

    python -m benchmarks.experts [--turns 9]

Four random decoder layers with the widths of Llama-3.2-1B, MoME-23/4 with bottleneck 12 beside each, or LoRA-64 on the
projections of queries and values. ``beams``: one new token of 15 beams. ``prompt``: 700 tokens of one clip.
``training``: forward and backward pass over these 700. Times are CPU seconds of one thread, the three ways in turn; a
ratio is that of one turn. Saved are the bytes that the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from mome.adapters import LoraAdapterConfig, MomeAdapterConfig, adapter_parameters, attach
from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json

LAYERS = 4
ADAPTERS = {
    "plain": None,
    "mome": MomeAdapterConfig(placement="layer", routed_experts=23, shared_experts=1, top_k=4, bottleneck=12),
    "lora": LoraAdapterConfig(bottleneck=64, targets=["q_proj", "v_proj"]),
}
CASES = [
    (dtype, what, batch, tokens)
    for dtype in (torch.bfloat16, torch.float32)
    for what, batch, tokens in (("beams", 15, 1), ("prompt", 1, 700), ("training", 1, 700))
]


def models(dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same layers with each of the adapters, whose weights are random too."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=2048,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=LAYERS,
        pad_token_id=0,
    )
    plain = LlamaModel(config).to(dtype).eval().requires_grad_(False)
    made: dict[str, nn.Module] = {}
    for way, adapter in ADAPTERS.items():
        made[way] = copy.deepcopy(plain)
        if adapter is not None:
            attach(made[way], adapter)
            for _, value in adapter_parameters(made[way]):
                nn.init.normal_(value, std=0.02)
    return made


def run(model: nn.Module, inputs: Tensor, train: bool) -> float:
    """CPU seconds of a pass."""
    began = time.thread_time()
    with torch.set_grad_enabled(train):
        states = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        if train:
            states.float().square().mean().backward()
    return time.thread_time() - began


def saved_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out and shared storage counted once."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        states = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        total = sum(kept.values())
    del states
    return total


def measure(made: dict[str, nn.Module], case: tuple[torch.dtype, str, int, int], turns: int) -> dict[str, Any]:
    """Seconds of each way, and ratios of the same turn."""
    dtype, what, batch, tokens = case
    torch.manual_seed(1)
    inputs = torch.randn(batch, tokens, 2048, dtype=dtype).requires_grad_(what == "training")
    seconds: dict[str, list[float]] = {way: [] for way in made}
    for turn in range(-1, turns):  # the first warms up
        for way, model in made.items():
            took = run(model, inputs, what == "training")
            model.zero_grad()
            inputs.grad = None
            if turn >= 0:
                seconds[way].append(took)
    row: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "what": what, "batch": batch, "tokens": tokens}
    for way, column in seconds.items():
        row[f"{way}_seconds"] = median(column)
    for name, other in (("mome_over_plain", "plain"), ("mome_over_lora", "lora")):
        ratios = [ours / theirs for ours, theirs in zip(seconds["mome"], seconds[other], strict=True)]
        row |= {name: median(ratios), f"{name}_range": [min(ratios), max(ratios)]}
    if what == "training":
        kept = {way: saved_bytes(model, inputs) for way, model in made.items()}
        row |= {f"{way}_saved_bytes": value for way, value in kept.items()}
        row["mome_added_saved"] = kept["mome"] / kept["plain"] - 1
    return row


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/experts.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    document = {
        **run_document(
            command=shlex.join(["python", "-m", "benchmarks.experts", *sys.argv[1:]]),
            model=f"{LAYERS} random Llama layers",
            data="random",
            seed=0,
        ),
        "machine": machine(torch.device("cpu")),
        "turns": args.turns,
        "times": [],
    }
    made: dict[str, nn.Module] = {}
    for case in CASES:
        if not made or next(made["plain"].parameters()).dtype != case[0]:
            made = models(case[0])
        row = measure(made, case, args.turns)
        document["times"].append(row)
        saved = f", saved +{100 * row['mome_added_saved']:.1f} %" if "mome_added_saved" in row else ""
        print(
            f"{row['dtype']} {row['what']}: MoME/layer {row['mome_over_plain']:.3f}, "
            f"MoME/LoRA {row['mome_over_lora']:.3f}{saved}",
            flush=True,
        )
        write_json(args.out, document)


if __name__ == "__main__":
    main()
