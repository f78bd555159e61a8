"""Recipes: one YAML file, with its bases and the user's ``key=value``s, to one typed description of a run."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig

from mome.checkpoints.backbones import backbone_config
from mome.checkpoints.vocabulary import MARKERS
from mome.config import MomeConfig
from mome.encoders import audio_encoder
from mome.errors import MomeError, shortened
from mome.model import MomeForSpeechRecognition
from mome.training.layers import SHIPPED, read_layers, read_override, recipe_path
from mome.training.schema import (
    AugmentRecipe,
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ValidationRecipe,
)
from mome.training.texts import guess_texts, local_tokenizer, write_texts

_PARTS: dict[str, type] = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "optim": OptimRecipe,
    "validation": ValidationRecipe,
}

_MISFITS = (OmegaConfBaseException, ValueError, TypeError, OverflowError)  # what merging raises
_WANTED = {
    str(hint): wanted if hint == kind else f"{wanted}, or null"
    for kind, wanted in (
        (str, "one text"),
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (list[str], "a list of texts, such as [TEXT]"),
        (list[int], "a list of whole numbers, such as [4, 16]"),
        (list[float], "a list of numbers, such as [0.9, 0.98]"),
        (dict[str, str], "a text for each task, such as {avsr: TEXT}"),
        (dict[str, float], "a number for each task, such as {avsr: 1.0}"),
        (dict[str, Any], "options by name, such as {NAME: VALUE}"),
    )
    for hint in (kind, kind | None)
}


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, its bases first, then the overrides.

    Args:
        name: a YAML file or the name of a shipped recipe. Its ``base`` lists recipes that it starts from.
        overrides: ``key=value`` with dotted keys, such as ``optim.epochs=3``.

    Raises:
        MomeError: the file or a key is unknown (the nearest is suggested), or a value does not fit.
    """
    merged = OmegaConf.structured(Recipe)
    for source, layer in read_layers(recipe_path(name)):
        if layer and not {f.name for f in fields(Recipe)}.intersection(layer):
            raise MomeError(f"{source} is no recipe: none of its keys is one of {', '.join(_PARTS)} and output")
        merged = _merge(merged, layer, str(source))
    for text in overrides:
        merged = _merge(merged, read_override(text), f"'{shortened(text)}'")
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise MomeError(f"{name} lacks {', '.join(missing)}: add it to the recipe or give {missing[0]}=VALUE")
    recipe = to_recipe(merged)
    recipe.output = recipe.output or f"runs/{Path(name).stem}"
    return recipe


def to_recipe(merged: DictConfig) -> Recipe:
    """The recipe that merged layers make; :class:`MomeError` where a value is not possible."""
    recipe = OmegaConf.to_object(merged)
    assert isinstance(recipe, Recipe)
    return recipe


def _merge(into: DictConfig, layer: DictConfig, source: str) -> Any:
    try:
        _check_keys(layer, source)
        return OmegaConf.merge(into, layer)
    except _MISFITS as error:
        reason = _misfit(into, layer) or shortened(str(error).splitlines()[0], 200)
        raise MomeError(f"{source}: {reason}") from error


def _misfit(into: DictConfig, layer: DictConfig) -> str | None:
    """Which key's value is of another type than the key, and what belongs there: not every error tells."""
    for part, content in cast(dict[str, Any], OmegaConf.to_container(layer)).items():
        hints = get_type_hints(_PARTS.get(part, Recipe))
        for name, value in content.items() if part in _PARTS else [(part, content)]:
            key, alone = (f"{part}.{name}", {part: {name: value}}) if part in _PARTS else (name, {name: value})
            try:
                OmegaConf.merge(into, alone)
            except _MISFITS:
                shown = "null" if value is None else shortened(value)
                return f"{key}={shown} is not possible: give {_WANTED[str(hints[name])]}"
    return None


def _check_keys(layer: DictConfig, source: str) -> None:
    parts = {name: [f.name for f in fields(part)] for name, part in _PARTS.items()}
    everywhere = [f"{part}.{name}" for part, names in parts.items() for name in names]

    def unknown(key: object, known: list[str], prefix: str = "") -> MomeError:
        near = difflib.get_close_matches(str(key), known, n=1)
        near = [prefix + name for name in near] or difflib.get_close_matches(f"{prefix}{key}", everywhere, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return MomeError(f"{source}: unknown key {prefix}{shortened(key)}: {hint}")

    top = [f.name for f in fields(Recipe)]
    for key in layer:
        if key not in top:
            raise unknown(key, top)
        if key in parts:
            if OmegaConf.is_missing(layer, key) or not isinstance(layer[key], DictConfig):
                raise MomeError(f"{source}: {key} holds keys of its own, such as {key}.{parts[str(key)][0]}=VALUE")
            for name in layer[key]:
                if name not in parts[str(key)]:
                    raise unknown(name, parts[str(key)], f"{key}.")


def model_config(recipe: Recipe, download: bool = True) -> MomeConfig:
    """The configuration of the model that a recipe describes, without any weights.

    Args:
        recipe: the recipe.
        download: ask the hub for the backbones' configurations; otherwise the package's own notes of published
            backbones come first.

    Raises:
        MomeError: a backbone's configuration is not to be had, or an adapter option is wrong.
    """
    model = recipe.model
    audio = _backbone_config("audio_encoder", model.audio_encoder, model.audio_encoder_revision, download)
    video = _backbone_config("video_encoder", model.video_encoder, model.video_encoder_revision, download)
    text = _backbone_config("language_model", model.language_model, model.language_model_revision, download)
    if audio is not None:
        audio_encoder(audio, f"the audio encoder {model.audio_encoder}")
    if audio is None and video is None:
        raise MomeError("the recipe has neither model.audio_encoder nor model.video_encoder: give one or both")
    # What the builder does with these is elsewhere in the configuration.
    own = ("self_contained", "instruction", "bos", "bos_taught", "markers")
    values = {f.name: getattr(model, f.name) for f in fields(ModelRecipe) if f.name not in own}
    values["adapter"] = _whole_bottleneck(model.adapter, text.hidden_size)
    try:
        config = MomeConfig(
            audio_config=audio.to_dict() if audio else None,
            video_config=video.to_dict() if video else None,
            text_config=text.to_dict() if text else None,
            tasks=recipe.optim.tasks,
            **values,
        )
        outline(config)  # wrong options are refused before anything is loaded
    except MomeError:
        raise
    except Exception as error:  # of whatever kind: heads that do not divide a width, a size that is no number
        reason = shortened(str(error) or type(error).__name__, 200)
        raise MomeError(f"no model can be built from the options under 'model': {reason}") from error
    return config


def outline(config: MomeConfig) -> MomeForSpeechRecognition:
    """The model that ``config`` describes, without memory for its weights."""
    with torch.device("meta"):
        return MomeForSpeechRecognition(config)


def _whole_bottleneck(adapter: dict[str, Any] | None, width: int) -> dict[str, Any] | None:
    """The adapter's options with a bottleneck such as ``width/32`` as the number that it is, rounded down."""
    value = (adapter or {}).get("bottleneck")
    if adapter is None or not isinstance(value, str):
        return adapter
    part = re.fullmatch(r"width/([1-9][0-9]*)", value)
    if part is None:
        raise MomeError(
            f"model.adapter.bottleneck={value} is not possible: give a whole number, or a part of the language "
            "model's width such as width/32"
        )
    return {**adapter, "bottleneck": max(width // int(part[1]), 1)}


def _backbone_config(kind: str, name: str | None, revision: str | None, download: bool) -> Any:
    if name is None:
        return None
    if not download and not Path(name).is_dir():
        known = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())
        if name in known:
            return AutoConfig.for_model(**known[name])
    return backbone_config(kind, name, revision)


def load_config(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> MomeConfig:
    """The model configuration of a recipe, without downloading anything where its backbones are well known.

    See :func:`load_recipe` and :func:`model_config`.
    """
    recipe = load_recipe(name, overrides)
    config = model_config(recipe, download=False)
    if recipe.model.markers:  # their number is known, their ids the builder will say
        config.audio_markers, config.video_markers = (list(pair) for pair in MARKERS.values())
    tokenizer = local_tokenizer(recipe.model.language_model)
    if tokenizer is not None:
        write_texts(config, recipe.model, tokenizer)
    else:
        guess_texts(config, recipe.model)
    return config
