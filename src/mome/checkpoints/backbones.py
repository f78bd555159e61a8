"""The frozen backbones, and what belongs to them, from a folder or the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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

from mome.checkpoints.bundled import bundled_part
from mome.checkpoints.hub import TOKENIZER, Repository, could_be_id
from mome.checkpoints.language_models import check_language_model
from mome.checkpoints.settings import blaming, check_settings, is_folder
from mome.encoders import audio_encoder
from mome.errors import MomeError, listed

_PER_BYTE = 4  # weights that a byte may hold: quantised to two bits
_UNTOLD = 10_000_000  # weights that a small model may have beyond those in its files

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
    return _read_config(kind, folder, what)


def _read_config(kind: str, folder: Path, what: str) -> PreTrainedConfig:
    check_settings(folder)
    with blaming(what, remedy="give a model of a type that Transformers has, or copy or download it again"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if kind == "language_model":
        check_language_model(config, what)
    if kind == "audio_encoder":
        audio_encoder(config, what)
    return config


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
    check_settings(folder)
    with blaming(what, remedy=f"its files in {folder} are missing or damaged"):
        return kind.from_pretrained(folder, trust_remote_code=False)


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
    if is_folder(folder):
        return folder
    if reference.count("/") != 1 or not could_be_id(reference):
        remedy = remedy or "correct it"
        raise MomeError(f"{what} is neither a folder here nor a hub id such as owner/name: {remedy}")
    return Repository(reference, what, revision, hub, remedy)


def load_backbone(
    kind: str,
    reference: str,
    revision: str | None,
    dtype: torch.dtype | str,
    options: dict,
    **hub: Any,
) -> PreTrainedModel:
    """Load one frozen backbone from a hub id or folder.

    Args:
        kind, reference, revision: as for :func:`backbone_config`.
        dtype: of the weights.
        options: of a language model's loading.
        hub: as for :func:`mome.checkpoints.folder.checkpoint_folder`.

    Raises:
        MomeError: it is missing, damaged or of another kind.
    """
    what = f"the {kind.replace('_', ' ')} {reference}"
    found = _locate(what, reference, revision, hub, _remedy(kind, reference))
    settings = found if isinstance(found, Path) else found.backbone_settings()
    config = _read_config(kind, settings, what)
    folder = found if isinstance(found, Path) else found.backbone()
    _check_size(kind, config, folder, what)
    with blaming(what):
        backbone, report = _load_folder(kind, config, folder, dtype, options)
    # Transformers would go on with random numbers in their place.
    lacking = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacking:
        raise MomeError(f"{what} has not all of its weights: {listed(lacking, 3)} missing or of another size")
    if isinstance(found, Repository):
        backbone.name_or_path = backbone.config.name_or_path = reference  # the hub's name, not its cache's
    return backbone


def _check_size(kind: str, config: PreTrainedConfig, folder: Path, what: str) -> None:
    """Refuse a configuration of far more weights than the files hold, before memory is asked for.

    Raises:
        MomeError: it is so, or nothing can be built from it.
    """
    with blaming(what, "describes no model that can be built"), torch.device("meta"):
        wanted = sum(weight.numel() for weight in _new(kind, copy.deepcopy(config)).parameters())
    held = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if wanted > _PER_BYTE * held + _UNTOLD:
        raise MomeError(
            f"{what} has {held / 1e6:.1f} MB of weights, and its config.json describes {wanted / 1e6:.0f} million: "
            "copy or download it again"
        )


def _new(kind: str, config: PreTrainedConfig) -> PreTrainedModel:
    if kind == "language_model":
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if kind == "audio_encoder":
        return audio_encoder(config).new(config)
    return AutoModel.from_config(config, trust_remote_code=False)


def _load_folder(
    kind: str, config: PreTrainedConfig, folder: Path, dtype: torch.dtype | str, options: dict
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The backbone, and what Transformers reports of its weights."""

    def load(cls: Any, **more: Any) -> Any:
        # What quantises a model renames its weights, so they are not compared.
        told = {"output_loading_info": True} if "quantization_config" not in more else {}
        loaded = cls.from_pretrained(folder, trust_remote_code=False, dtype=dtype, **told, **more)
        return loaded if told else (loaded, {"missing_keys": (), "mismatched_keys": ()})

    if kind == "language_model":
        return load(AutoModelForCausalLM, **options)
    return audio_encoder(config).load(config, load) if kind == "audio_encoder" else load(AutoModel)


def _remedy(kind: str, reference: str) -> str | None:
    """How to come by an AV-HuBERT, of which the hub has none; ``None`` of the other backbones."""
    if kind != "video_encoder" and "av-hubert" not in reference:
        return None
    return f"make it with 'mome convert av-hubert CKPT {reference}'"
