"""Measure what docs/models.md says of converting large files, and of language models in fewer bits.

    PYTHONPATH=. python scripts/figures/conversion.py

The files are made by the tests' helpers, hence the path. They need 20 GB in the folder, which are deleted again. The
time is that of the machine as it is; only Linux tells the memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mome.convert import avhubert, avsr
from mome.convert.writing import Account
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.evaluation.result import run_document, write_json
from mome.training import load_recipe, model_config
from tests.convert import fairseq, large

LANGUAGE_MODELS = ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B")
BLOCK = 64  # values of 4 bits that share a float32 scale


def write_encoder(folder: Path, legacy: bool = False) -> Path:
    """AV-HuBERT Large with random weights in float32."""
    torch.manual_seed(0)
    return fairseq.save({"model": AVHubertModel(AVHubertConfig()).state_dict()}, folder / "encoder.pt", legacy)


def convert_recogniser(file: Path, out: Path) -> Account:
    """The language model beside the file lacks its last tensor, so that it is compared to the end, and stored."""
    language_model, whisper, av_hubert = (
        str(file.with_name(kind)) for kind in ("language_model", "audio_encoder", "video_encoder")
    )
    return avsr.convert("llama-avsr", file, out, avsr.Sources(language_model, whisper, av_hubert))


Write = Callable[[Path], Path]
Convert = Callable[[Path, Path], Account]
FILES: dict[str, tuple[Write, Convert]] = {
    "Llama-AVSR with Llama-3.1-8B, all holes": (large.write, convert_recogniser),
    "AV-HuBERT Large": (write_encoder, avhubert.convert),
    "AV-HuBERT Large, written as before PyTorch 1.6": (partial(write_encoder, legacy=True), avhubert.convert),
}


def measure(convert: Convert, file: Path) -> dict[str, Any]:
    """Bytes and seconds of a conversion; the peak is that of the memory that no file backs."""
    torch.set_num_threads(1)
    out, start = file.with_name("out"), time.perf_counter()
    with large.watched() as peak:
        convert(file, out)
    seconds = time.perf_counter() - start
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"file_bytes": file.stat().st_size, "written_bytes": written, "peak_bytes": peak[0], "seconds": seconds}


def alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Call in a new process, in whose memory nothing is left of what was done before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def conversion(name: str, parent: Path) -> dict[str, Any]:
    write, convert = FILES[name]
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        return {"file": name, **alone(measure, convert, alone(write, Path(folder)))}


def sizes(name: str) -> dict[str, Any]:
    """Bytes of a language model's weights, those of its linear layers but the output layer in fewer bits.

    Scales of 8 bits, one for each row, are left out: about a thousandth.
    """
    overrides = [f"model.language_model=meta-llama/{name}"]
    config = model_config(load_recipe("llama-avsr-lrs3", overrides), download=False).text_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    linear = sum(layer.weight.numel() for layer in layers)
    rest = 2 * (sum(value.numel() for value in model.parameters()) - linear)
    of_layers = {"bfloat16": 2 * linear, "8 bits": linear, "4 bits": linear // 2 + 4 * linear // BLOCK}
    return {"language_model": name, "bytes": {kind: rest + size for kind, size in of_layers.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build"), help="for the files")
    parser.add_argument("--out", type=Path, default=Path("results/conversion.json"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["PYTHONPATH=.", "python", *sys.argv])
    document = run_document(command=command, model=None, data="holes and random weights", seed=0)
    document |= {"threads": 1, "conversion": [conversion(name, args.folder) for name in FILES]}
    document["sizes"] = [sizes(name) for name in LANGUAGE_MODELS]
    write_json(args.out, document)


if __name__ == "__main__":
    main()
