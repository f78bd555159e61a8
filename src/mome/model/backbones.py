"""The frozen backbones, and what belongs to them, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.encoders import AVHubertModel
from mome.encoders.audio import AUDIO_INPUTS
from mome.errors import MomeError
from mome.model.bundled import bundled_part
from mome.model.hub import TOKENIZER, Repository, could_be_id
from mome.model.language_model import LANGUAGE_MODELS

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # Transformers' names

Extractor = TypeVar("Extractor", bound=FeatureExtractionMixin)


def backbone_config(kind: str, reference: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a backbone at a hub id or in a folder.

    Args:
        kind: ``audio_encoder``, ``video_encoder`` or ``language_model``.
        reference: the id or folder.
        revision: of the hub.

    Raises:
        MomeError: it is not to be had, or damaged.
    """
    what = f"the {kind.replace('_', ' ')} {reference}"
    folder = find_folder(what, reference, revision, Repository.backbone_settings, _remedy(kind, reference))
    if not (folder / "config.json").is_file():
        raise MomeError(f"{what} has no config.json: give a model that Transformers or 'mome' wrote")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MomeError(f"{what} cannot be loaded: {_first_line(error)}") from error
    if kind == "language_model":
        check_language_model(config, what)
    return config


def check_language_model(config: PreTrainedConfig, what: str = "the language model") -> None:
    """Raise :class:`MomeError` where a configuration is of a model that reads more than text, is not dense or new."""
    text = getattr(config, "text_config", None)
    if text is not None:
        raise MomeError(
            f"{what} is of type {config.model_type}, which reads more than text and cannot be used: give one of text "
            f"alone, here {text.model_type}"
        )
    experts = max(getattr(config, name, None) or 0 for name in EXPERT_COUNTS)
    if experts > 1 and getattr(config, "is_moe", True):
        raise MomeError(
            f"{what} is of type {config.model_type}, itself a mixture of {experts} experts, and cannot be used: give a "
            "dense one"
        )
    if config.model_type not in LANGUAGE_MODELS:
        raise MomeError(
            f"{what} is of type {config.model_type}, which is not supported: give one of "
            f"{', '.join(sorted(LANGUAGE_MODELS))}"
        )


def load_tokenizer(reference: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model at a hub id or in a folder.

    Raises:
        MomeError: it is not to be had, or damaged.
    """
    return _preprocessing(AutoTokenizer, f"the tokenizer of {reference}", reference, revision, TOKENIZER)


def load_extractor(kind: type[Extractor], reference: str, revision: str | None = None) -> Extractor:
    """The feature extractor of an audio encoder at a hub id or in a folder.

    Raises:
        MomeError: it is not to be had, or damaged.
    """
    what = f"the feature extractor of {reference}"
    return _preprocessing(kind, what, reference, revision, ("preprocessor_config.json", "processor_config.json"))


def _preprocessing(kind: Any, what: str, reference: str, revision: str | None, files: tuple[str, ...]) -> Any:
    folder = find_folder(what, reference, revision, lambda repository: repository.preprocessing(files))
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of whatever kind: the library in which tokenizers are written raises that itself
        raise MomeError(
            f"{what} cannot be loaded: its files in {folder} are missing or damaged ({_first_line(error).rstrip(': ')})"
        ) from error


def find_folder(
    what: str, reference: str, revision: str | None, fetch: Callable[[Repository], Path], remedy: str | None = None
) -> Path:
    """The folder of this name, or that of what is fetched from the hub's repository of this name.

    Raises:
        MomeError: there is neither.
    """
    found = _locate(what, reference, revision, {}, remedy)
    return found if isinstance(found, Path) else fetch(found)


def _locate(
    what: str, reference: str, revision: str | None, hub: dict[str, Any], remedy: str | None
) -> Path | Repository:
    folder = Path(bundled_part(reference))
    if folder.is_dir():
        return folder
    if reference.count("/") != 1 or not could_be_id(reference):
        remedy = remedy or "correct it"
        raise MomeError(f"{what} is neither a folder here nor a hub id such as owner/name: {remedy}")
    return Repository(reference, what, revision, hub, remedy)


def load_backbone(
    kind: str, reference: str, revision: str | None, dtype: torch.dtype | str, options: dict, **hub: Any
) -> PreTrainedModel:
    """Load one frozen backbone from a hub id or folder.

    ``options`` are those of a language model; ``hub`` is as for :func:`mome.model.folder.checkpoint_folder`.

    Raises:
        MomeError: it is missing or of another kind.
    """
    what = f"the {kind.replace('_', ' ')} {reference}"
    found = _locate(what, reference, revision, hub, _remedy(kind, reference))
    settings = found if isinstance(found, Path) else found.backbone_settings()
    try:
        config = AutoConfig.from_pretrained(settings)
        if kind == "language_model":
            check_language_model(config, what)
        if kind == "audio_encoder" and config.model_type not in AUDIO_INPUTS:
            raise ValueError(f"it is of type {config.model_type}, not one of {', '.join(AUDIO_INPUTS)}")
        folder = found if isinstance(found, Path) else found.backbone()
        backbone = _load_folder(kind, config, folder, dtype, options)
    except (OSError, ValueError, SafetensorError) as error:
        raise MomeError(f"{what} cannot be loaded: {_first_line(error)}") from error
    if isinstance(found, Repository):
        backbone.name_or_path = backbone.config.name_or_path = reference  # the hub's name, not its cache's
    return backbone


def _load_folder(
    kind: str, config: PreTrainedConfig, folder: Path, dtype: torch.dtype | str, options: dict
) -> PreTrainedModel:
    if kind == "language_model":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    if kind == "video_encoder" or config.model_type == "avhubert":
        return AVHubertModel.from_pretrained(folder, dtype=dtype)
    if config.model_type != "whisper":
        return AutoModel.from_pretrained(folder, dtype=dtype)
    if config.architectures == ["WhisperEncoder"]:
        return WhisperEncoder.from_pretrained(folder, dtype=dtype)
    return WhisperModel.from_pretrained(folder, dtype=dtype).get_encoder()


def _remedy(kind: str, reference: str) -> str | None:
    """How to come by an AV-HuBERT, of which the hub has none; ``None`` of the other backbones."""
    if kind != "video_encoder" and "av-hubert" not in reference:
        return None
    return f"make it with 'mome convert av-hubert CKPT {reference}'"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
