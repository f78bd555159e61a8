"""Write files as fairseq's trainer does, without fairseq."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mome.encoders.avhubert import AVHubertConfig, AVHubertModel

SETTINGS = {
    "_name": "av_hubert",
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "layer_norm_first": True,
    "modality_fuse": "concat",
    "activation_fn": "gelu",
    "resnet_relu_type": "prelu",
    "sub_encoder_layers": 0,
    "audio_feat_dim": 104,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "dropout": 0.2,
}
TASK = {"_name": "av_hubert_pretraining", "normalize": True, "image_crop_size": 88, "image_mean": 0.4, "image_std": 0.2}


def tiny_config() -> AVHubertConfig:
    """The configuration of :data:`SETTINGS` and :data:`TASK`."""
    return AVHubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        resnet_width=2,
        conv_pos=8,
        conv_pos_groups=4,
        image_mean=0.4,
        image_std=0.2,
        dropout=0.2,
    )


def tiny_state(rows: int = 9, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The weights of a pre-trained model, those for pre-training only included."""
    torch.manual_seed(0)
    state = {key: value.clone() for key, value in AVHubertModel(tiny_config()).state_dict().items()}
    state |= {"mask_emb": torch.randn(104), "label_embs_concat": torch.randn(rows, 6)}
    state |= {"final_proj.weight": torch.randn(6, 16), "final_proj.bias": torch.randn(6)}
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}


def fine_tuned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a fine-tuned model with this encoder and a decoder."""
    inside = {f"encoder.w2v_model.{key}": value for key, value in state.items() if not key.startswith("final_proj")}
    decoder = {"decoder.embed_tokens.weight": torch.zeros(5, 4), "decoder.layers.0.fc1.weight": torch.zeros(4, 4)}
    return {**inside, "encoder.proj.weight": torch.zeros(4, 16), **decoder}


def container(foreign: dict[str, type], state: dict[str, torch.Tensor], model: dict | None, task: dict | None) -> dict:
    """A whole checkpoint around the weights; ``model`` and ``task`` are its settings."""
    words = foreign["Dictionary"]()
    words.__dict__.update(symbols=["<s>", "a"], count=[1, 2], indices={"<s>": 0, "a": 1}, bos_index=0)
    bpe = foreign["SentencepieceBPE"]()
    bpe.__dict__.update(sp=foreign["SentencePieceProcessor"](), args=argparse.Namespace(bpe="sentencepiece"))
    return {
        "args": None,
        "cfg": None if model is None else {"common": {"fp16": True}, "model": model, "task": task},
        "model": state,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "AVHubertCriterion", "num_updates": 3}],
        "task_state": {"dictionaries": [words], "s2s_tokenizer": bpe},
        "extra_state": {"best": np.float64(2.5), "curve": np.arange(3), "train_iterator": {"epoch": 2}},
        "last_optimizer_state": {"state": {0: torch.zeros(3)}},
    }


def save(content: object, path: Path, legacy: bool = False) -> Path:
    """Write a file in the format of PyTorch, or in that from before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
