"""The frozen backbones of a published recogniser, and the tokens that it adds to its language model's vocabulary.

A backbone is stored only if the checkpoint's copy differs from the backbone's own weights; otherwise the folder refers
to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from mome.checkpoints.backbones import backbone_config
from mome.checkpoints.checkpoint import STATISTICS
from mome.checkpoints.folder import INSIDE, WEIGHTS
from mome.checkpoints.settings import INDICES, blaming, read_settings
from mome.checkpoints.source import Source
from mome.checkpoints.vocabulary import MARKERS, add_markers, prepare_padding
from mome.config import MomeConfig
from mome.config.fields import Rounding
from mome.convert.avhubert import HEAD_WIDTH, encoder_config
from mome.convert.avsr_names import EMBEDDING, PROMPTS, audio_type
from mome.convert.fitting import count_modules, dtype_name, misfit, read_size, same, same_rounded
from mome.convert.writing import save_weights
from mome.encoders.avhubert import AVHubertConfig
from mome.encoders.whisper import FRAMES_PER_SECOND
from mome.errors import MomeError, listed

# Prefixes in a backbone's own files of the names in the checkpoint.
_PREFIXES = {"audio_encoder": ("model.encoder.", "encoder.", ""), "video_encoder": ("",), "language_model": ("",)}
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_DRIFTING = (*STATISTICS, ".num_batches_tracked")  # batch norms ran in training mode


def named_config(kind: str, name: str, model_type: str | None = None) -> PreTrainedConfig:
    """The configuration of a backbone at a hub id or in a folder.

    Raises:
        MomeError: it cannot be found, or is not of ``model_type``.
    """
    config = backbone_config(kind, name)
    if model_type is not None and config.model_type != model_type:
        what = f"{kind.replace('_', ' ')} {name}"
        raise MomeError(f"the {what} is of type {config.model_type}, where the checkpoint needs {model_type}")
    return config


def audio_config(state: Mapping[str, Tensor], source: str) -> WhisperConfig:
    """Read the sizes of a Whisper encoder; its heads are taken to be as wide as in all published ones.

    A size is that of Whisper-medium.en if the weights that show it are missing; :func:`checked` reports them later.

    Raises:
        MomeError: it is no Whisper, or its width or number of heads is unknown.
    """
    if audio_type(state) == "wavlm":
        raise MomeError(f"{source} has a WavLM, whose settings its weights do not show: give --audio-encoder")
    prefix = r"audio_encoder\."
    width = read_size(state, (prefix + ".*", 1, 0))  # of most vectors
    if width is None:
        raise MomeError(
            f"{source} does not show its Whisper's width: audio_encoder.layer_norm.weight and more is missing"
        )
    if width % HEAD_WIDTH:
        raise MomeError(
            f"{source} has a Whisper of width {width}, of how many heads is not known: give --audio-encoder"
        )
    layers = map(re.compile(prefix + r"layers\.(\d{1,3})\..*").fullmatch, state)
    return WhisperConfig(
        d_model=width,
        encoder_layers=count_modules(int(match[1]) for match in layers if match),
        encoder_attention_heads=width // HEAD_WIDTH,
        encoder_ffn_dim=read_size(state, (prefix + r".*\.fc1\.weight", 2, 0), (prefix + r".*\.fc1\.bias", 1, 0))
        or 4 * width,
        num_mel_bins=read_size(state, (prefix + r"conv1\.weight", 3, 1)) or 80,
        max_source_positions=read_size(state, (prefix + r"embed_positions\.weight", 2, 0)) or 1500,
    )


def whisper_extractor(config: WhisperConfig, **settings: Any) -> WhisperFeatureExtractor:
    """The feature extractor of a Whisper encoder; ``settings`` are more of its arguments."""
    window = config.max_source_positions // FRAMES_PER_SECOND
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=window, **settings)


def avhubert_config(part: str, state: Mapping[str, Tensor], source: str) -> AVHubertConfig:
    """Read the sizes of an AV-HuBERT, whose heads are taken to be as wide as in both published ones.

    Args:
        part: first part of its names, such as ``video_encoder``.
        state: the checkpoint's tensors.
        source: what messages call the checkpoint.
    """
    prefix = f"{part}."
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
        reference: hub id or folder for the configuration.
        revision: of the hub repository; ``None`` for a folder.
        files: the file of each tensor.
    """

    reference: str
    revision: str | None
    files: Mapping[str, Path]

    def read(self, name: str) -> Tensor:
        """Read one tensor; the file is closed again, so that no other tensor stays in memory.

        Raises:
            MomeError: the file is damaged.
        """
        with blaming(self.files[name], "is damaged"), safe_open(self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def find_weights(name: str) -> LocalWeights | str:
    """A backbone's own weights in a folder or in the hub's cache, or the reason why they cannot be compared."""
    elsewhere = f"the weights of {name} are not on this machine to compare with"
    source = Source(name, name, hub={"local_files_only": True})
    try:
        folder = source.weights(source.settings())
    except MomeError:
        return elsewhere
    with blaming(f"the weights in {folder}", "are damaged"):
        if (folder / INDICES[WEIGHTS]).is_file():
            files = {key: folder / file for key, file in read_settings(folder / INDICES[WEIGHTS])["weight_map"].items()}
        elif (folder / WEIGHTS).is_file():
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                files = dict.fromkeys(file.keys(), folder / WEIGHTS)
        elif others := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
            return f"{name} has its weights in {others[0]}, and only those in {WEIGHTS} are compared"
        elif source.folder is not None:
            return f"the folder {name} has no {WEIGHTS} to compare with"
        else:
            return elsewhere
    missing = sorted({path.name for path in files.values() if not path.is_file()})
    if missing:
        return f"of the weights of {name}, {listed(missing)} are not on this machine to compare with"
    if source.folder is None:
        return LocalWeights(name, folder.name, files)
    return LocalWeights(name if str(folder) != name else str(folder.resolve()), None, files)


def precision(part: Mapping[str, Tensor]) -> str:
    """The precision of a checkpoint's backbone, such as ``bfloat16``."""
    return next(dtype_name(value) for value in part.values() if value.is_floating_point())


def difference(kind: str, part: Mapping[str, Tensor], weights: LocalWeights, rounding: str | None = None) -> str | None:
    """The first tensor that differs from the backbone's own; ``None`` if all are equal.

    Added rows of the vocabulary and statistics of batch norms are not compared: they are stored in any case.

    Args:
        kind: of the backbone.
        part: the checkpoint's copy.
        weights: the backbone's own.
        rounding: precision to which the backbone's own are rounded first, as the published systems did.
    """
    prefix = max(_PREFIXES[kind], key=lambda prefix: sum(prefix + key in weights.files for key in part))
    for key, copied in part.items():
        if key.endswith(_DRIFTING):
            continue
        if prefix + key not in weights.files:
            return key
        own = weights.read(prefix + key)
        if key in _VOCABULARY:
            copied = copied[: len(own)]
        if not same(own if rounding is None else own.to(getattr(torch, rounding)), copied):
            return key
    return None


def refer(config: MomeConfig, kind: str, part: Mapping[str, Tensor], name: str | None, padded: bool) -> list[str]:
    """Decide whether a backbone is stored or referred to, and write its place into the configuration.

    Args:
        config: of the recogniser.
        kind: of the backbone.
        part: the checkpoint's copy.
        name: hub id or folder of the backbone; ``None``: it is stored.
        padded: the vocabulary differs from the backbone's in more than added rows, so it is stored.

    Returns:
        Lines on the decision.
    """
    setattr(config, kind, INSIDE + kind)
    what = kind.replace("_", " ")
    if name is None:
        return []
    if padded:
        return [f"the {what} is stored: its vocabulary is not that of {name} with rows appended"]
    own = find_weights(name)
    if isinstance(own, str):
        return [f"the {what} is stored: {own}"]
    differing, rounding = difference(kind, part, own), None
    if differing is not None and precision(part) in get_args(Rounding):
        rounding = precision(part)
        differing = difference(kind, part, own, rounding)
    if differing is not None:
        return [f"the {what} is stored: {differing} is not that of {name}"]
    setattr(config, kind, own.reference)
    setattr(config, f"{kind}_revision", own.revision)
    setattr(config, f"{kind}_rounding", rounding)
    how = "" if rounding is None else f" and whose weights it rounds to {rounding}, as the file has them"
    return [f"the {what} is that of {name}, to which the folder refers{how}"]


def save_part(
    model: PreTrainedModel, part: Mapping[str, Tensor], folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write a backbone into a new folder, and a language model's generation settings if its tokenizer is given."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.dtype = precision(part)
    folder.mkdir()
    config.save_pretrained(folder)
    save_weights(part, folder)
    if tokenizer is not None:
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        GenerationConfig(**ids).save_pretrained(folder)


def add_tokens(config: MomeConfig, tokenizer: PreTrainedTokenizerBase, rows: int, name: str, source: str) -> None:
    """Add the published tokens to a tokenizer, and write the ids of start, markers and prompts into the configuration.

    The checkpoint's rows show which were added: padding and four markers for Llama, the markers alone for Qwen, which
    has padding.

    Args:
        config: of the recogniser; ``added_tokens`` and the vocabulary's size are set too.
        tokenizer: of the language model.
        rows: of the checkpoint's embedding.
        name: of the language model, for messages.
        source: what messages call the checkpoint.

    Raises:
        MomeError: the tokenizer does not fit the checkpoint.
    """
    markers, before = sum(map(len, MARKERS.values())), len(tokenizer)
    add_markers(config, tokenizer, padding=rows - before == markers + 1)
    if len(tokenizer) != rows or rows == before:
        raise MomeError(
            f"the vocabulary of {source} has {rows} rows, which is not that of {name} ({before} tokens) with "
            f"{markers} or {markers + 1} added: give the language model that it was trained on"
        )
    if tokenizer.eos_token_id is None:
        raise MomeError(f"the tokenizer of {name} has no end token: give the language model that it was trained on")
    prepare_padding(tokenizer)
    config.added_tokens, config.text_config.vocab_size = rows - before, before
    config.start_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    config.prompt_ids = {
        task: tokenizer(text, add_special_tokens=False).input_ids for task, text in config.prompts.items()
    }


def misshaped_prompts(state: Mapping[str, Tensor], width: int) -> list[str]:
    """Messages on embedded prompts that are missing or not of shape ``(1, tokens, width)``."""
    problems = []
    for key in PROMPTS:
        found = state.get(key)
        tokens = found.shape[1] if found is not None and found.dim() > 1 else 1
        why = "missing" if found is None else misfit(found, torch.empty(1, tokens, width, device="meta"))
        problems += [f"{key} is {why}"] if why else []
    return problems


def check_prompts(state: Mapping[str, Tensor], config: MomeConfig, source: str) -> None:
    """Compare the checkpoint's embedded prompts, if it has any, with the embeddings of the tokenized prompts.

    Raises:
        MomeError: they differ, so the model was trained with another tokenizer.
    """
    for key, task in PROMPTS.items():
        if key in state:
            embedded = state[EMBEDDING][torch.tensor(config.text_ids(task))]
            if not same_rounded(state[key][0], embedded):
                raise MomeError(
                    f"{key} of {source} is not '{config.prompts[task]}' by the tokenizer of --language-model: "
                    "give the language model that it was trained on"
                )
