"""Load the frozen backbones, their tokenizers and feature extractors from a folder or the hub."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mome.checkpoints.language_models import check_language_model
from mome.checkpoints.names import TOKENIZER_FILES
from mome.checkpoints.settings import blaming, check_settings
from mome.checkpoints.source import Source, offline_folder
from mome.encoders import audio_encoder
from mome.errors import MomeError, listed

_WEIGHTS_PER_BYTE = 4  # at most: weights quantised to two bits
_MISSING_WEIGHTS = 10_000_000  # number of weights that may be missing from a model's files

Extractor = TypeVar("Extractor", bound=FeatureExtractionMixin)


def backbone_config(kind: str, reference: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a backbone at a hub id or in a folder.

    Args:
        kind: ``audio_encoder``, ``video_encoder`` or ``language_model``.
        reference: the id or folder.
        revision: of the hub repository.

    Raises:
        MomeError: it cannot be found, or is damaged.
    """
    source = _source(kind, reference, revision)
    return _read_config(kind, source.settings(), source.what)


def _source(kind: str, reference: str, revision: str | None, **hub: Any) -> Source:
    convertible = kind == "video_encoder" or "av-hubert" in reference  # the hub has no AV-HuBERT
    remedy = f"make it with 'mome convert av-hubert CKPT {reference}'" if convertible else None
    return Source(reference, f"the {kind.replace('_', ' ')} {reference}", revision, remedy, hub)


def _read_config(kind: str, folder: Path, what: str) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise MomeError(f"{what} has no config.json: give a model that Transformers or 'mome' wrote")
    check_settings(folder)
    with blaming(what, remedy="give a model of a type that Transformers has, or copy or download it again"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if kind == "language_model":
        check_language_model(config, what)
    if kind == "audio_encoder":
        audio_encoder(config, what)
    return config


def load_tokenizer(reference: str, revision: str | None = None, **hub: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model at a hub id or in a folder.

    Args:
        reference, revision: as for :func:`backbone_config`.
        hub: as for :func:`mome.checkpoints.folder.model_folder`.

    Raises:
        MomeError: it cannot be found, or is damaged.
    """
    source = Source(reference, f"the tokenizer of {reference}", revision, hub=hub)
    tokenizer: PreTrainedTokenizerBase = _load_preprocessing(AutoTokenizer, source, TOKENIZER_FILES)
    return tokenizer


def load_extractor(kind: type[Extractor], reference: str, revision: str | None = None) -> Extractor:
    """The feature extractor of an audio encoder at a hub id or in a folder.

    Raises:
        MomeError: it cannot be found, or is damaged.
    """
    source = Source(reference, f"the feature extractor of {reference}", revision)
    extractor: Extractor = _load_preprocessing(kind, source, ("preprocessor_config.json", "processor_config.json"))
    return extractor


def _load_preprocessing(kind: Any, source: Source, files: tuple[str, ...]) -> Any:
    folder = source.preprocessing(files)
    check_settings(folder)
    with blaming(source.what, remedy=f"its files in {folder} are missing or damaged"):
        return kind.from_pretrained(folder, trust_remote_code=False)


def load_backbone(
    kind: str,
    reference: str,
    revision: str | None,
    dtype: torch.dtype | str,
    options: Mapping[str, Any],
    **hub: Any,
) -> PreTrainedModel:
    """Load one frozen backbone from a hub id or folder.

    Args:
        kind, reference, revision: as for :func:`backbone_config`.
        dtype: of the weights.
        options: passed on to ``from_pretrained`` of a language model.
        hub: as for :func:`mome.checkpoints.folder.model_folder`.

    Raises:
        MomeError: it is missing, damaged or of another kind.
    """
    source = _source(kind, reference, revision, **hub)
    settings = source.settings()
    config = _read_config(kind, settings, source.what)
    folder = source.weights(settings)
    _check_size(kind, config, folder, source.what)
    with blaming(source.what):
        backbone, report = _load_folder(kind, config, folder, dtype, options)
    # Transformers initialises missing weights at random.
    lacking = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacking:
        names = listed(lacking, 3)
        raise MomeError(f"{source.what} has not all of its weights: {names} missing or of another size")
    if source.folder in (None, offline_folder(reference)):
        backbone.name_or_path = backbone.config.name_or_path = reference  # instead of the place it was found at
    return backbone


def _check_size(kind: str, config: PreTrainedConfig, folder: Path, what: str) -> None:
    """Refuse a configuration that describes far more weights than the files hold, before memory is allocated.

    Raises:
        MomeError: the files are too small, or no model can be built from the configuration.
    """
    with blaming(what, "describes no model that can be built"), torch.device("meta"):
        described = sum(weight.numel() for weight in _new(kind, copy.deepcopy(config)).parameters())
    held = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if described > _WEIGHTS_PER_BYTE * held + _MISSING_WEIGHTS:
        raise MomeError(
            f"{what} has {held / 1e6:.1f} MB of weights, and its config.json describes {described / 1e6:.0f} million: "
            "copy or download it again"
        )


def _new(kind: str, config: PreTrainedConfig) -> PreTrainedModel:
    if kind == "language_model":
        model: PreTrainedModel = cast(Any, AutoModelForCausalLM).from_config(config, trust_remote_code=False)
        return model
    if kind == "audio_encoder":
        return audio_encoder(config).new(config)
    video: PreTrainedModel = cast(Any, AutoModel).from_config(config, trust_remote_code=False)
    return video


def _load_folder(
    kind: str, config: PreTrainedConfig, folder: Path, dtype: torch.dtype | str, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The backbone, and Transformers' report on missing and mismatched weights."""

    def load(cls: Any, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        if "quantization_config" in more:  # quantisation renames the weights
            model = cls.from_pretrained(folder, trust_remote_code=False, dtype=dtype, **more)
            return model, {"missing_keys": (), "mismatched_keys": ()}
        model, report = cls.from_pretrained(
            folder, trust_remote_code=False, dtype=dtype, output_loading_info=True, **more
        )
        return model, report

    if kind == "language_model":
        return load(AutoModelForCausalLM, **options)
    return audio_encoder(config).load(config, load) if kind == "audio_encoder" else load(AutoModel)
