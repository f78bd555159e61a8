"""A file as published with Llama-3.1-8B inside, 17 GB of zeros in a sparse file that needs little of the disk.

Run as a program with such a folder, it converts the file and prints how much memory that took.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import Tensor
from transformers import AutoConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, WhisperModel

from mome.convert import avsr, avsr_backbones, writing
from mome.convert.avsr_names import EMBEDDING, HEAD
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.training.loading import SHIPPED
from tests.conftest import Golden
from tests.convert.published import ADDED, PROMPT_IDS, tokenizer_of

LANGUAGE_MODEL, WHISPER = "meta-llama/Llama-3.1-8B", "openai/whisper-medium.en"
RATES, HIDDEN, RANK = {"audio": 4, "video": 2}, 2048, 64
LIMIT = 4e9  # bytes of memory at which the program gives up, before the machine does
TOKENS = {"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_001}


def write(folder: Path) -> Path:
    """Write the file and its backbones' folders; that of the language model has all weights except the last one."""
    models = _backbones()
    state = {}
    for kind, model in models.items():
        own = model.state_dict()
        model.config.save_pretrained(folder / kind)
        prefix = {"language_model": "llm."}.get(kind, f"{kind}.")
        state |= {f"{prefix}{key}": value for key, value in own.items()}
    own = models["language_model"].state_dict()
    own.pop("lm_head.weight")
    _write_safetensors(own, folder / "language_model" / "model.safetensors")
    tokenizer_of(Golden({}, {}, {}, {"llm": TOKENS, "prompt_ids": PROMPT_IDS})).save_pretrained(
        folder / "language_model"
    )
    shapes = {key: tuple(value.shape) for key, value in state.items()} | _trained(models["language_model"].config)
    kinds = {True: torch.int64, False: torch.bfloat16}
    whole = {key: torch.empty(shape, dtype=kinds[key.endswith("tracked")]) for key, shape in shapes.items()}
    with torch.serialization.skip_data():  # so the memory of `whole` is never touched
        torch.save(whole, folder / "large.pth")
    return folder / "large.pth"


def _backbones() -> dict[str, PreTrainedModel]:
    known = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())
    with torch.device("meta"):
        models = {
            "language_model": LlamaForCausalLM(AutoConfig.for_model(**known[LANGUAGE_MODEL])),
            "audio_encoder": WhisperModel(AutoConfig.for_model(**known[WHISPER])).encoder,
            "video_encoder": AVHubertModel(AVHubertConfig()),
        }
    return {kind: model.to(torch.bfloat16) for kind, model in models.items()}


def _trained(llama: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors that the backbones do not have, or have in a smaller size."""
    width, rows = llama.hidden_size, llama.vocab_size + ADDED
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((EMBEDDING, HEAD), (rows, width))
    for side, rate in RATES.items():
        shapes |= {f"{side}_proj.0.weight": (HIDDEN, 1024 * rate), f"{side}_proj.0.bias": (HIDDEN,)}
        shapes |= {f"{side}_proj.2.weight": (width, HIDDEN), f"{side}_proj.2.bias": (width,)}
    for layer in range(llama.num_hidden_layers):
        for side, out in (("Q", width), ("V", width * llama.num_key_value_heads // llama.num_attention_heads)):
            name = f"llm.model.layers.{layer}.self_attn.lora_"
            shapes |= {f"{name}down_{side}.weight": (RANK, width), f"{name}up_{side}.weight": (out, RANK)}
    return shapes


def _write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a sparse file of zeros with these names and shapes."""
    header, end = {}, 0
    for name, value in state.items():
        kind = "I64" if value.dtype == torch.int64 else "BF16"
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _anonymous() -> int:
    """Bytes of memory that are not mapped from a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell")


@contextmanager
def watched() -> Iterator[list[int]]:
    """A list with one number, the peak of this memory since the call."""
    start, peak, done = _anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], _anonymous() - start)
            if peak[0] > LIMIT:
                print(peak[0], flush=True)
                os._exit(1)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def main(folder: Path) -> None:
    """Convert, and print the peak and the bytes that were to be written.

    The language model is compared with its own weights to the last one, which is not there, and stored. Nothing but
    the amount is left out: of every tensor the first number is compared and read.
    """
    amounts: list[int] = []

    def same_start(one: Tensor, other: Tensor) -> bool:
        return one.shape == other.shape and _first(one) == _first(other)

    def read_start(tensors: Mapping[str, Tensor], file: Path, metadata: object) -> None:
        for value in tensors.values():
            _first(value)
            amounts.append(value.nbytes)
        file.touch()

    avsr_backbones.torch.equal = same_start
    avsr.card = lambda *arguments: ""  # which reads all of the file
    writing.save_file = read_start
    kinds = ("language_model", "audio_encoder", "video_encoder")
    sources = avsr.Sources(*(str(folder / kind) for kind in kinds))
    with watched() as peak:
        account = avsr.convert("llama-avsr", folder / "large.pth", folder / "out", sources)
    print(json.dumps({"peak": peak[0], "to write": sum(amounts), "notes": account.notes}))


def _first(value: Tensor) -> float:
    return float(value.reshape(-1)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
