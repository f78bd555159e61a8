"""The frozen backbones of a published recogniser: their configurations, and whether the checkpoint's copy is the
backbone's own, which is then referred to instead of stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
)

from mome.encoders import AVHubertConfig
from mome.errors import MomeError, listed
from mome.model.backbones import backbone_config
from mome.model.bundled import bundled_part
from mome.model.checkpoint import WEIGHTS
from mome.model.convert.avhubert import HEAD_WIDTH, encoder_config
from mome.model.convert.fitting import count, told
from mome.model.convert.folder import save_weights

# Names of a backbone's own files begin so, the checkpoint's part without it.
_PREFIXES = {"audio_encoder": ("model.encoder.", "encoder.", ""), "video_encoder": ("",), "language_model": ("",)}
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_DRIFTING = (".running_mean", ".running_var", ".num_batches_tracked")  # of batch norms that were left in training


def named_config(kind: str, name: str, model_type: str | None = None) -> PreTrainedConfig:
    """The configuration of a backbone at a hub id or in a folder.

    Raises:
        MomeError: it is not to be had, or not of ``model_type``.
    """
    config = backbone_config(kind, name)
    if model_type is not None and config.model_type != model_type:
        what = f"{kind.replace('_', ' ')} {name}"
        raise MomeError(f"the {what} is of type {config.model_type}, where the checkpoint needs {model_type}")
    return config


def whisper_config(state: Mapping[str, Any], source: str) -> WhisperConfig:
    """The sizes of a Whisper encoder, with heads as wide as in all published ones.

    A size that no weight tells is that of Whisper-medium.en; the weights that would tell it are missing or do not fit.
    """
    prefix = r"audio_encoder\."
    width = told(state, (prefix + ".*", 1, 0))  # most of its vectors have it
    if width is None:
        raise MomeError(
            f"{source} does not tell its Whisper's width: audio_encoder.layer_norm.weight and more is missing"
        )
    if width % HEAD_WIDTH:
        raise MomeError(
            f"{source} has a Whisper of width {width}, of how many heads is not known: give --audio-encoder"
        )
    layers = map(re.compile(prefix + r"layers\.(\d{1,3})\..*").fullmatch, state)
    return WhisperConfig(
        d_model=width,
        encoder_layers=count(int(match[1]) for match in layers if match),
        encoder_attention_heads=width // HEAD_WIDTH,
        encoder_ffn_dim=told(state, (prefix + r".*\.fc1\.weight", 2, 0), (prefix + r".*\.fc1\.bias", 1, 0))
        or 4 * width,
        num_mel_bins=told(state, (prefix + r"conv1\.weight", 3, 1)) or 80,
        max_source_positions=told(state, (prefix + r"embed_positions\.weight", 2, 0)) or 1500,
    )


def avhubert_config(state: Mapping[str, Any], source: str) -> AVHubertConfig:
    """The sizes of an AV-HuBERT encoder, with heads as wide as in both published ones."""
    prefix = "video_encoder."
    encoder = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and ".lora_" not in key
    }
    return encoder_config(encoder, {}, source)[0]


@dataclass(frozen=True)
class LocalWeights:
    """The safetensors files of a backbone on this machine.

    Attributes:
        reference: what a model folder says to find them again.
        revision: of the hub repository; ``None`` of a folder.
        files: where each tensor is.
    """

    reference: str
    revision: str | None
    files: Mapping[str, Path]

    def read(self, name: str) -> Tensor:
        """One tensor; its file is mapped for it alone, so that no more of it stays in memory."""
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)


def find_weights(name: str) -> LocalWeights | str:
    """A backbone's own weights in a folder or in the hub's cache; or why there is nothing to compare with."""
    folder, revision, reference = Path(bundled_part(name)), None, name
    if folder.is_dir():
        reference = name if str(folder) != name else str(folder.resolve())
    else:
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):
            return f"the weights of {name} are not on this machine to compare with"
        revision = folder.name
    try:
        index = folder / f"{WEIGHTS}.index.json"
        if index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {key: folder / file for key, file in places.items()}
        elif (folder / WEIGHTS).is_file():
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                files = dict.fromkeys(file.keys(), folder / WEIGHTS)
        elif others := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
            return f"{name} has its weights in {others[0]}, and only those in {WEIGHTS} are compared"
        elif revision is None:
            return f"the folder {name} has no {WEIGHTS} to compare with"
        else:
            return f"the weights of {name} are not on this machine to compare with"
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise MomeError(f"the weights in {folder} are damaged: copy or download them again") from error
    missing = sorted({path.name for path in files.values() if not path.is_file()})
    if missing:
        return f"of the weights of {name}, {listed(missing)} are not on this machine to compare with"
    return LocalWeights(reference, revision, files)


def difference(kind: str, part: Mapping[str, Tensor], weights: LocalWeights) -> str | None:
    """The first tensor that differs from the backbone's own; ``None`` where all are the same.

    The backbone's are rounded to the checkpoint's precision first, as the published systems did. Rows that were
    appended to the vocabulary and the statistics of batch norms are stored with the trained parts in any case.
    """
    for key, mine in part.items():
        if key.endswith(_DRIFTING):
            continue
        name = next((prefix + key for prefix in _PREFIXES[kind] if prefix + key in weights.files), None)
        if name is None:
            return key
        try:
            own = weights.read(name)
        except (OSError, SafetensorError) as error:
            raise MomeError(f"{weights.files[name]} is damaged: copy or download it again") from error
        if key in _VOCABULARY:
            mine = mine[: len(own)]
        if not torch.equal(own.to(mine.dtype), mine):
            return key
    return None


def save_part(
    model: PreTrainedModel, part: Mapping[str, Tensor], folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write a backbone into a folder of its own; with its tokenizer, a language model's generation settings too."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.dtype = next(str(value.dtype) for value in part.values() if value.is_floating_point()).split(".")[1]
    folder.mkdir()
    config.save_pretrained(folder)
    save_weights(part, folder)
    if tokenizer is not None:
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        GenerationConfig(**ids).save_pretrained(folder)
