"""The model that a recipe describes, with its pre-trained backbones."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mome.checkpoints.backbones import load_backbone, load_extractor
from mome.checkpoints.vocabulary import MARKERS
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.training.recipe import model_config, outline
from mome.training.schema import Recipe
from mome.training.texts import find_tokenizer, processor_around, write_texts


def build(recipe: Recipe, dtype: torch.dtype = torch.float32) -> tuple[MomeForSpeechRecognition, MomeProcessor]:
    """Load the frozen backbones and put new projectors and adapters on them.

    Raises:
        MomeError: a backbone is missing or unfit, or the model is larger than the machine's memory.
    """
    config, names = model_config(recipe), recipe.model
    _check_memory(config, dtype)
    tokenizer = find_tokenizer(names.language_model, names.language_model_revision)
    extractor = None
    encoder = config.audio_encoder_class
    if names.audio_encoder is not None and encoder is not None and encoder.extractor is not None:
        extractor = _extractor(encoder.extractor, names.audio_encoder, names.audio_encoder_revision)
    if names.markers:
        _add_markers(config, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    write_texts(config, names, tokenizer)
    config.check_options()  # again, now with tokens: the tokenizer may be another language model's
    parts: dict[str, Any] = {
        kind: load_backbone(kind, getattr(config, kind), getattr(config, f"{kind}_revision"), dtype, {})
        for kind in BACKBONES
        if getattr(config, kind) is not None
    }
    for kind in BACKBONES:  # a relative folder would point elsewhere once the checkpoint is moved
        reference = getattr(config, kind)
        if reference is not None and Path(reference).is_dir():
            setattr(config, kind, str(Path(reference).resolve()))
    model = MomeForSpeechRecognition(config, **parts).to(dtype=dtype)  # type: ignore[call-arg]
    processor = MomeProcessor.for_config(config, tokenizer, extractor)
    processor.bos_taught = names.bos_taught
    return model, processor


def _check_memory(config: MomeConfig, dtype: torch.dtype) -> None:
    """Refuse what cannot be trained here before weights are loaded: the system would kill the process."""
    parameters = list(outline(config).parameters())
    # A trained one has a gradient and AdamW's two moments besides its value.
    numbers = sum(value.numel() * (4 if value.requires_grad else 1) for value in parameters)
    needed, there = numbers * dtype.itemsize, _memory()
    if needed > there:
        raise MomeError(
            f"the recipe's model needs {needed / 1e9:.0f} GB to train, and the memory here is {there / 1e9:.0f} GB: "
            "choose smaller backbones, projectors or adapters"
        )


def _memory() -> int:
    """Bytes that this machine and its accelerators have."""
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return own + sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def _extractor(kind: type, name: str, revision: str | None) -> Any:
    whole = processor_around(name)
    return load_extractor(kind, name, revision) if whole is None else whole.feature_extractor


def _add_markers(config: MomeConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer the tokens around audio and video, and padding if it has none, in the published order.

    Their rows are the vocabulary's next; language models whose embedding has rows to spare need no new ones.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens([token for pair in MARKERS.values() for token in pair], special_tokens=True)
    config.audio_markers, config.video_markers = (
        tokenizer.convert_tokens_to_ids(list(pair)) for pair in MARKERS.values()
    )
    config.added_tokens = max(len(tokenizer) - config.text_config.vocab_size, 0)
