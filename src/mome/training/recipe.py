"""Recipes: one YAML file, with its bases and the user's ``key=value``s, to one typed description of a run."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig

from mome.encoders.audio import AUDIO_INPUTS
from mome.errors import MomeError, listed
from mome.model import MomeConfig
from mome.model.backbones import backbone_config
from mome.model.vocabulary import MARKERS
from mome.training.texts import guess_texts, local_tokenizer, write_texts

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"


@dataclass
class ModelRecipe:
    """What is built; the names are those of :class:`~mome.model.MomeConfig`."""

    audio_encoder: str | None = None
    video_encoder: str | None = None
    language_model: str = MISSING
    audio_encoder_revision: str | None = None
    video_encoder_revision: str | None = None
    language_model_revision: str | None = None
    audio_context: str = "window"
    audio_rates: list[int] = field(default_factory=list)
    video_rates: list[int] = field(default_factory=list)
    compression: str = "average"
    projector_hidden: int = 2048
    projector_norm: bool = False
    connector: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None  # its bottleneck may be a part of the language model's width: width/32
    video_adapter: dict[str, Any] | None = None
    unfrozen: list[str] = field(default_factory=list)
    markers: bool = False  # whether tokens of their own stand around the audio and video tokens, as published
    balance_weight: float = 0.01
    decorrelation_weight: float = 0.0  # of Llama-AVSR's sink loss, 10000 as published
    prompts: dict[str, str] | None = None
    instruction: str = ""  # text before the audio and video tokens; that after them is the task's prompt
    bos: bool = False  # whether the language model's start token comes first, as in the published systems
    bos_taught: bool = False  # whether transcripts begin with it too, so that the model writes it first (MMS-LLaMA)
    generation: dict[str, Any] | None = None  # how the model is decoded, such as {num_beams: 15}
    description: str | None = None
    self_contained: bool = False


@dataclass
class DataRecipe:
    """Where clips come from; ``cache`` is ``tokens`` (encoders run once per variant) or ``clips``."""

    manifests: list[str] = MISSING
    train_split: str = "train"
    valid_split: str = "valid"
    cache: str = "clips"
    cache_folder: str = "runs/cache"
    limit: int | None = None  # training clips to take, drawn once and for all; null takes all
    variants: int = 4
    max_frames: int = 1500
    workers: int = 0


@dataclass
class AugmentRecipe:
    """Training-time changes of clips; an SNR of ``.inf`` stands for no noise."""

    crop: bool = True
    flip: bool = True
    time_mask: bool = True
    noise: list[str] = field(default_factory=list)
    snr: list[float] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, float("inf")])


@dataclass
class OptimRecipe:
    """Optimisation.

    ``rates`` are those to train on, all of the tasks' where it is null. ``rates_per_step`` draws so many of them
    each step; ``one_rate_per_task`` draws one audio and one video rate a step, which every task then uses
    (Omni-AVSR); ``rates_up_to`` does so from 1 to this with numbers of tokens drawn uniformly, for a connector that
    takes any rate (MQT).
    """

    tasks: list[str] = field(default_factory=lambda: ["avsr"])
    task_weights: dict[str, float] = field(default_factory=dict)
    rates: list[str] | None = None
    rates_per_step: int | None = None
    one_rate_per_task: bool = False
    rates_up_to: int | None = None
    epochs: float = 10
    steps: int | None = None  # length of the training in updates, instead of epochs
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    warmup_steps: int = 0
    clip_norm: float = 10.0
    accumulate: int = 1
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    log_steps: int = 10
    seed: int = 42


@dataclass
class ValidationRecipe:
    """Word error rate on the validation split; the best checkpoint by the first rates is kept.

    ``rates`` are the finest and the coarsest of each task where it is null; an empty list leaves validation out.
    """

    rates: list[str] | None = None
    every_steps: int = 500
    limit: int | None = None
    batch: int = 16


@dataclass
class Recipe:
    """One training run."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    output: str = ""  # runs/NAME unless it is given


def recipe_path(name: str | Path) -> Path:
    """A recipe file, or the shipped recipe of that name.

    Raises:
        MomeError: there is neither; names the nearest shipped recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml") and shipped.is_file():
        return shipped
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes are {listed(names)}"
    raise MomeError(f"no recipe at {name}: {hint}")


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, its bases first, then the overrides.

    Args:
        name: a YAML file or the name of a shipped recipe. Its ``base`` lists recipes that it starts from.
        overrides: ``key=value`` with dotted keys, such as ``optim.epochs=3``.

    Raises:
        MomeError: the file or a key is unknown (the nearest is suggested), or a value does not fit.
    """
    merged = OmegaConf.structured(Recipe)
    for source, layer in _layers(recipe_path(name)):
        merged = _merge(merged, layer, str(source))
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals:
            raise MomeError(f"'{text}' is not key=value, such as optim.epochs=3")
        try:
            layer = OmegaConf.from_dotlist([text])
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise MomeError(f"the value of {key} is not readable: {text}") from error
        merged = _merge(merged, layer, f"'{text}'")
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise MomeError(f"{name} lacks {', '.join(missing)}: add it to the recipe or give {missing[0]}=VALUE")
    recipe = OmegaConf.to_object(merged)
    assert isinstance(recipe, Recipe)
    recipe.output = recipe.output or f"runs/{Path(name).stem}"
    return recipe


def _layers(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, DictConfig]]:
    if path in seen:
        raise MomeError(f"recipe {path} is based on itself")
    try:
        content = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise MomeError(f"recipe {path} is not readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, DictConfig):
        raise MomeError(f"recipe {path} is not a mapping of keys to values")
    bases = content.pop("base", [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        beside = path.parent / f"{base}.yaml"
        layers += _layers(beside if beside.is_file() else recipe_path(base), (*seen, path))
    return [*layers, (path, content)]


def _merge(into: DictConfig, layer: Any, source: str) -> Any:
    try:
        _check_keys(Recipe, layer, source)
        return OmegaConf.merge(into, layer)
    except OmegaConfBaseException as error:
        raise MomeError(f"{source}: {str(error).splitlines()[0]}") from error


def _check_keys(schema: type, layer: Any, source: str, prefix: str = "") -> None:
    known = {f.name: f for f in fields(schema)}
    for key in layer:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            everywhere = [name for part in _PARTS for name in (f"{part}.{f.name}" for f in fields(_PARTS[part]))]
            near = [prefix + name for name in near] or difflib.get_close_matches(prefix + str(key), everywhere, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise MomeError(f"{source}: unknown key {prefix}{key}: {hint}")
        part = _PARTS.get(key) if not prefix else None
        if part is not None and is_dataclass(part):
            if not isinstance(layer[key], DictConfig):
                raise MomeError(f"{source}: {key} holds keys of its own, such as {key}.{fields(part)[0].name}=VALUE")
            _check_keys(part, layer[key], source, f"{key}.")


_PARTS: dict[str, type] = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "optim": OptimRecipe,
    "validation": ValidationRecipe,
}


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
    if audio is not None and audio.model_type not in AUDIO_INPUTS:
        kinds = ", ".join(AUDIO_INPUTS)
        raise MomeError(f"the audio encoder {model.audio_encoder} is of type {audio.model_type}, not one of {kinds}")
    if audio is None and video is None:
        raise MomeError("the recipe has neither model.audio_encoder nor model.video_encoder: give one or both")
    # What the builder does with these is elsewhere in the configuration.
    own = ("self_contained", "instruction", "bos", "bos_taught", "markers")
    values = {f.name: getattr(model, f.name) for f in fields(ModelRecipe) if f.name not in own}
    values["adapter"] = _whole_bottleneck(model.adapter, text.hidden_size)
    config = MomeConfig(
        audio_config=audio.to_dict() if audio else None,
        video_config=video.to_dict() if video else None,
        text_config=text.to_dict() if text else None,
        tasks=recipe.optim.tasks,
        **values,
    )
    # Wrong options are refused before anything is loaded.
    _ = config.adapter_config, config.video_adapter_config, config.connector_config
    return config


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
