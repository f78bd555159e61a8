"""The model that a recipe describes, with its pre-trained backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from mome.encoders.audio import AUDIO_INPUTS
from mome.errors import MomeError
from mome.model import MomeConfig, MomeForSpeechRecognition, MomeProcessor
from mome.model.backbones import load_backbone, load_extractor, load_tokenizer
from mome.model.bundled import bundled_part
from mome.model.config import BACKBONES
from mome.model.vocabulary import MARKERS
from mome.training.recipe import Recipe, model_config


def build(recipe: Recipe, dtype: torch.dtype = torch.float32) -> tuple[MomeForSpeechRecognition, MomeProcessor]:
    """Load the frozen backbones and put new projectors and adapters on them.

    Raises:
        MomeError: a backbone is missing or unfit.
    """
    config, names = model_config(recipe), recipe.model
    whole = _processor_around(names.language_model)
    tokenizer = whole.tokenizer if whole else load_tokenizer(names.language_model, names.language_model_revision)
    extractor = None
    if names.audio_encoder is not None and config.audio_config.model_type != "avhubert":  # it has none
        extractor = _extractor(config.audio_config.model_type, names.audio_encoder, names.audio_encoder_revision)
    if names.markers:
        _add_markers(config, tokenizer)
    _set_tokens(config, tokenizer)
    if names.bos:
        if tokenizer.bos_token_id is None:
            raise MomeError(f"the tokenizer of {names.language_model} has no start token: leave out model.bos")
        config.start_ids = [tokenizer.bos_token_id]
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
    return model, MomeProcessor.for_config(config, tokenizer, extractor)


def _extractor(model_type: str, name: str, revision: str | None) -> Any:
    whole = _processor_around(name)
    if whole is not None:
        return whole.feature_extractor
    kind = WhisperFeatureExtractor if AUDIO_INPUTS[model_type] == "log_mel" else Wav2Vec2FeatureExtractor
    return load_extractor(kind, name, revision)


def _processor_around(name: str) -> MomeProcessor | None:
    """The processor of the self-contained checkpoint that a backbone is a part of; ``None`` if it is by itself."""
    whole = Path(bundled_part(name)).parent
    if not (whole / "processor_config.json").is_file():
        return None
    try:
        return MomeProcessor.from_pretrained(whole)
    except (OSError, ValueError) as error:
        raise MomeError(f"the processor files of {whole} are missing or damaged: copy or download it again") from error


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


def _set_tokens(config: MomeConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the prompts' token ids into the configuration; padding falls back on the end token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    config.prompt_ids = {
        task: tokenizer(text, add_special_tokens=False).input_ids for task, text in config.prompts.items()
    }
