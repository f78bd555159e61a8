"""Measure our beam search beside Transformers' own: time, keys and values in memory, and whether both write the same.

    python -m benchmarks.beam_search [--turns 5]

The language model is random: Llama-3.2-1B's proportions at width 512, 8 layers, a vocabulary of 32 000. 15 beams write
32 tokens after prefixes of several lengths, one clip at a time and a batch of 8. Then mome-tiny transcribes the clip
that the package has. Times are CPU seconds of one thread, both searches in turn; a ratio is that of one turn.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

import mome
from mome.adapters import MomeAdapterConfig, adapter_parameters, attach
from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json
from mome.model import beam_search, shared_prefix
from mome.model.sequence import LanguageInputs

WIDTH, LAYERS, VOCABULARY = 512, 8, 32_000
BEAMS, NEW = 15, 32
ONE, MIXED = ((88,), (257,), (757,)), (88, 112, 136, 160, 184, 208, 232, 257)
EXPERTS = MomeAdapterConfig("layer", routed_experts=23, top_k=4, bottleneck=12)


def language_model(dtype: torch.dtype, experts: bool) -> Any:
    """A random model; its last tokens' logits spread as those of a trained one do."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 256,
        pad_token_id=0,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    if experts:
        attach(model, EXPERTS)
        for _, value in adapter_parameters(model):
            torch.nn.init.normal_(value, std=0.02)
    return model.to(dtype)


def clips(lengths: tuple[int, ...], dtype: torch.dtype) -> LanguageInputs:
    """Random positions before the transcript, padded on the left."""
    longest = max(lengths)
    offset = torch.arange(longest) - (longest - torch.tensor(lengths)[:, None])
    embeddings = torch.randn(len(lengths), longest, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    return LanguageInputs(embeddings, offset >= 0, offset.clamp(min=0), [], [], offset)


@contextmanager
def transformers_search() -> Iterator[None]:
    """Leave every search to Transformers."""
    with patch.object(beam_search, "_covers", lambda *_: False):
        yield


@contextmanager
def cache_sizes() -> Iterator[dict[type, int]]:
    """The most keys and values that a layer of Transformers' cache and one of ours kept at the end of a step."""
    largest: dict[type, int] = {DynamicLayer: 0, shared_prefix.Columns: 0}

    def counting(kind: Any, update: Callable[..., Any]) -> Callable[..., Any]:
        def count(self: Any, *states: Tensor, **more: Any) -> Any:
            result = update(self, *states, **more)
            kept = [self.keys, self.values] if kind is DynamicLayer else self.memory
            largest[kind] = max(largest[kind], sum(part.numel() for part in kept))
            return result

        return count

    with ExitStack() as stack:
        for kind in (DynamicLayer, shared_prefix.Columns):
            stack.enter_context(patch.object(kind, "update", counting(kind, kind.update)))
        yield largest


def compare(call: Callable[[], Any], turns: int) -> tuple[dict[str, Any], list[Any]]:
    """Times of both searches in turn with the sizes of their caches, and what they gave last."""
    seconds: list[tuple[float, float]] = []
    with cache_sizes() as largest:
        call()  # warming up
        for _ in range(turns):
            with transformers_search():
                began = time.thread_time()
                theirs = call()
                between = time.thread_time()
            ours = call()
            seconds.append((between - began, time.thread_time() - between))
    row: dict[str, Any] = {}
    for name, column in zip(("transformers", "ours"), zip(*seconds, strict=True), strict=True):
        row |= {f"{name}_seconds": median(column), f"{name}_seconds_range": [min(column), max(column)]}
    ratios = [one / other for one, other in seconds]
    row |= {"transformers_over_ours": median(ratios), "transformers_over_ours_range": [min(ratios), max(ratios)]}
    theirs_kept, ours_kept = largest.values()
    return {**row, "cache_transformers_over_ours": theirs_kept / ours_kept}, [theirs, ours]


def search(dtype: torch.dtype, experts: bool, lengths: tuple[int, ...], turns: int) -> dict[str, Any]:
    """A row of the results."""
    options = {"num_beams": BEAMS, "max_new_tokens": NEW, "min_new_tokens": NEW}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    call = partial(beam_search.generate, language_model(dtype, experts), clips(lengths, dtype), options)
    figures, (theirs, ours) = compare(call, turns)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "experts": experts,
        "prefixes": lengths,
        **figures,
        "same_sequences": torch.equal(theirs.sequences, ours.sequences),
        "largest_score_difference": float((theirs.sequences_scores - ours.sequences_scores).abs().max()),
    }


def transcription(turns: int) -> dict[str, Any]:
    """mome-tiny with 15 beams on the demonstration clip, from its pixels and its sound to the text."""
    transcriber = mome.load()
    clip = transcriber.load_clip(Path(mome.__file__).parent / "demo" / "clip.mp4", [transcriber.default_rates])
    figures, (theirs, ours) = compare(lambda: transcriber.transcribe(clip, num_beams=BEAMS), turns)
    return {"rates": str(transcriber.default_rates), **figures, "same_text": theirs.text == ours.text}


def report(name: str, row: dict[str, Any]) -> None:
    """Print a line."""
    low, high = row["transformers_over_ours_range"]
    same = row.get("same_sequences", row.get("same_text"))
    print(
        f"{name:42}{row['transformers_seconds']:7.3f} s {row['ours_seconds']:7.3f} s "
        f"{row['transformers_over_ours']:6.2f} ({low:.2f} to {high:.2f}), cache "
        f"{row['cache_transformers_over_ours']:5.2f}, same {same}",
        flush=True,
    )


@torch.no_grad()
def main() -> None:
    """Measure and write the results, after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/beam_search.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.beam_search", *sys.argv[1:]])
    rows: list[dict[str, Any]] = []
    document = {
        **run_document(command=command, model="random Llama", data="random", seed=0),
        "machine": machine(torch.device("cpu")),
        "beams": BEAMS,
        "new_tokens": NEW,
        "turns": args.turns,
        "mome_tiny": transcription(args.turns),
        "searches": rows,
    }
    report("mome-tiny", document["mome_tiny"])
    types = (torch.float32, torch.bfloat16)
    cases = [(dtype, False, lengths) for dtype in types for lengths in ONE]
    cases += [(torch.float32, True, ONE[0]), *((dtype, False, MIXED) for dtype in types)]
    for dtype, experts, lengths in cases:
        rows.append(search(dtype, experts, lengths, args.turns))
        report(f"{rows[-1]['dtype']} {'MoME ' if experts else ''}{'+'.join(map(str, lengths))}", rows[-1])
        write_json(args.out, document)


if __name__ == "__main__":
    main()
