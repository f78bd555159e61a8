"""Recipes: what one may say, and reading one with its bases and the user's ``key=value``s.

A wrong value is refused where the dataclass is made, so that every command that reads a recipe refuses alike.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mome.config import MomeConfig
from mome.config.fields import BACKBONES, check_option
from mome.errors import MomeError, shortened
from mome.rates import TASKS, Rates, RateSet
from mome.training.layers import read_layers, read_override

LARGEST_SNR = 100.0  # decibels
MOST = 10**9  # of whatever is counted
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes, as file systems have it

Check = Callable[[str, Any], None]


def _refuse(key: str, value: object, remedy: str) -> MomeError:
    return MomeError(f"{key}={shortened(value)} is not possible: {remedy}")


def _integer(least: int, most: int = MOST) -> Check:
    def check(key: str, value: int) -> None:
        if not least <= value <= most:
            raise _refuse(key, value, f"give {least} or more" if value < least else f"give {most} or less")

    return check


def _number(key: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise _refuse(key, value, "give a number from 0 up")


def _positive(key: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise _refuse(key, value, "give a number above 0")


def _epochs(key: str, value: float) -> None:
    _positive(key, value)
    if value > MOST:
        raise _refuse(key, value, f"give {MOST} or less")


def _one_of(names: Sequence[str]) -> Check:
    def check(key: str, value: str) -> None:
        if value not in names:
            raise MomeError(f"{key}={shortened(value)} is unknown: choose {' or '.join(names)}")

    return check


def _path(key: str, value: str) -> None:
    """A name that files can have; whether there is such a file shows when it is wanted."""
    if not value.strip():
        raise MomeError(f"{key} is empty: name a file or folder, or leave it out")
    name = os.fsencode(value)
    if len(name) > LONGEST_PATH or max(map(len, name.split(b"/"))) > LONGEST_NAME:
        raise _refuse(key, value, "it is longer than the name of a file can be")


def _rates(key: str, value: str) -> None:
    try:
        Rates.parse(value)
    except MomeError as error:
        raise MomeError(f"{key}: {error}") from error


def _filled(key: str, value: str) -> None:
    if not value.strip():
        raise MomeError(f"{key} is empty: give a name")


def _each(check: Check, empty: bool = True) -> Check:
    """``check`` for everything in a list, which may be empty or not."""

    def check_all(key: str, values: Sequence[Any]) -> None:
        if not values and not empty:
            raise MomeError(f"{key} is empty: give one or more, such as {key}=[VALUE], or leave it out")
        for value in values:
            check(key, value)

    return check_all


def _tasks(key: str, tasks: Sequence[str]) -> None:
    """For a list of tasks, or what has tasks as keys."""
    for task in tasks:
        if task not in TASKS:
            raise MomeError(f"{key}: unknown task '{shortened(task)}', the tasks are {', '.join(TASKS)}")


def _some_tasks(key: str, tasks: Sequence[str]) -> None:
    if not tasks:
        raise MomeError(f"{key} is empty: choose from {', '.join(TASKS)}")
    _tasks(key, tasks)


def _task_weights(key: str, weights: dict[str, float]) -> None:
    _tasks(key, list(weights))
    for task, weight in weights.items():
        _number(f"{key}.{task}", weight)


def _betas(key: str, value: list[float]) -> None:
    if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
        raise _refuse(key, value, "give two numbers from 0 to less than 1, such as [0.9,0.98]")


def _snr(key: str, value: float) -> None:
    if not (value == math.inf or abs(value) <= LARGEST_SNR):
        raise MomeError(f"{key} holds {value}: give -{LARGEST_SNR:g} to {LARGEST_SNR:g} dB, or .inf for clean")


def _check(part: Any, prefix: str, **checks: Check) -> None:
    """Try the values of these keys; null, where a key may be null, and what is still missing pass."""
    for key, check in checks.items():
        value = getattr(part, key)
        if value is None or value == MISSING:
            continue
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if any(isinstance(item, list | dict) for item in items):
            raise MomeError(f"{prefix}{key} holds a list or keys of its own where a single value belongs: correct it")
        check(prefix + key, value)


# Options of a model that its builder and conversions write, not the user.
_WRITTEN = {
    *("audio_config", "video_config", "text_config", *(f"{name}_rounding" for name in BACKBONES)),
    *("tasks", "only", "compat", "added_tokens", "video_statistics", "initializer_range"),
    *("start_ids", "prompt_ids", "audio_markers", "video_markers"),
}
MODEL_OPTIONS: dict[str, Any] = {
    name: kind for name, kind in get_annotations(MomeConfig, eval_str=True).items() if name not in _WRITTEN
}
"""Those options of :class:`~mome.config.MomeConfig` that a recipe may give, with their types."""


def _and_model_options(part: type) -> type:
    """Add those to a class that is about to become a dataclass, with the configuration's defaults."""
    defaults = {option.name: option for option in fields(MomeConfig)}
    for name, kind in MODEL_OPTIONS.items():
        if name not in part.__annotations__:
            part.__annotations__[name] = str if get_origin(kind) is Literal else kind
            option = defaults[name]
            setattr(part, name, field(default=option.default, default_factory=option.default_factory))
    return part


@dataclass
@_and_model_options
class ModelRecipe:
    """What is built: options of :class:`~mome.config.MomeConfig`, which checks the nested ones, and these."""

    language_model: str = MISSING
    markers: bool = False  # whether tokens of their own stand around the audio and video tokens, as published
    instruction: str = ""  # text before the audio and video tokens; that after them is the task's prompt
    bos: bool = False  # whether the language model's start token comes first, as in the published systems
    bos_taught: bool = False  # whether transcripts begin with it too, so that the model writes it first (MMS-LLaMA)
    self_contained: bool = False  # whether the frozen weights are saved too

    if TYPE_CHECKING:  # a type checker cannot see the options that are added

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(self, "model.", **{name: _path for name in MODEL_OPTIONS if name.startswith(BACKBONES)})
        for name in MODEL_OPTIONS:
            check_option(name, getattr(self, name), "model.")
        _tasks("model.prompts", list(self.prompts))


@dataclass
class DataRecipe:
    """Where clips come from; ``cache`` is ``tokens`` (encoders run once per variant) or ``clips``."""

    manifests: list[str] = field(default_factory=list)  # named by the user
    source: str = "your clips, written by `mome data folder DIR -o FILE`"  # what a message asks for
    train_split: str = "train"
    valid_split: str = "valid"
    cache: str = "clips"
    cache_folder: str = "runs/cache"
    limit: int | None = None  # training clips to take, drawn once and for all; null takes all
    variants: int = 4
    max_frames: int = 1500
    workers: int = 0

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "data.",
            manifests=_each(_path),
            source=_filled,
            train_split=_filled,
            valid_split=_filled,
            cache=_one_of(("clips", "tokens")),
            cache_folder=_path,
            limit=_integer(1),
            variants=_integer(1, 1000),
            max_frames=_integer(1),
            workers=_integer(0, 256),
        )


@dataclass
class AugmentRecipe:
    """Training-time changes of clips; an SNR of ``.inf`` stands for no noise.

    ``noise`` lists recordings, none for training without; where it is null, the user has to say.
    """

    crop: bool = True
    flip: bool = True
    time_mask: bool = True
    noise: list[str] | None = field(default_factory=list)
    snr: list[float] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, math.inf])

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "augment.",
            noise=_each(_path),
            snr=_each(_snr),
        )


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

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible, or two that exclude each other."""
        _check(
            self,
            "optim.",
            tasks=_some_tasks,
            task_weights=_task_weights,
            rates=_each(_rates, empty=False),
            rates_per_step=_integer(1),
            rates_up_to=_integer(1),
            epochs=_epochs,
            steps=_integer(1),
            learning_rate=_positive,
            weight_decay=_number,
            betas=_betas,
            warmup_steps=_integer(0),
            clip_norm=_number,
            accumulate=_integer(1),
            precision=_one_of(("fp32", "bf16")),
            log_steps=_integer(1),
            seed=_integer(0, 2**32 - 1),
        )
        drawn = [name for name in ("rates_per_step", "one_rate_per_task", "rates_up_to") if getattr(self, name)]
        if len(drawn) > 1:
            raise MomeError(f"optim.{drawn[0]} and optim.{drawn[1]} exclude each other: give one")
        if not any(self.task_weights.get(task, 1) for task in self.tasks):
            raise MomeError("optim.task_weights leaves every task without weight: give one a number above 0")

    def rates_of(self, rate_set: RateSet) -> list[Rates]:
        """The rates to train on.

        Raises:
            MomeError: the rate set has none for the tasks, or not those asked for.
        """
        rates = list(rate_set.rates())
        if not rates:
            tasks = ", ".join(task for task in TASKS if task in self.tasks)
            raise MomeError(f"the model has no rates for {tasks}: set model.audio_rates and video_rates")
        if self.rates_up_to is not None and not rate_set.open:
            raise MomeError("optim.rates_up_to draws any rates: it needs model.connector.type=resampler")
        return rates if self.rates is None else [rate_set.check(Rates.parse(text)) for text in self.rates]


@dataclass
class ValidationRecipe:
    """Word error rate on the validation split; the best checkpoint by the first rates is kept.

    ``rates`` are the finest and the coarsest of each task where it is null; an empty list leaves validation out.
    """

    rates: list[str] | None = None
    every_steps: int = 500
    limit: int | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "validation.",
            rates=_each(_rates),
            every_steps=_integer(1),
            limit=_integer(1),
            batch=_integer(1),
        )

    def rates_of(self, rate_set: RateSet) -> list[Rates]:
        """The rates to validate at; none for no validation.

        Raises:
            MomeError: the rate set does not have them.
        """
        if self.rates is not None:
            return [rate_set.check(Rates.parse(text)) for text in self.rates]
        ends = [(every[0], every[-1]) for task in rate_set.tasks if (every := list(rate_set.rates([task])))]
        return list(dict.fromkeys(rates for pair in ends for rates in pair))


@dataclass
class Recipe:
    """One training run."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    output: str = ""  # runs/NAME unless it is given

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` where values of different parts do not go together."""
        if self.output:
            _path("output", self.output)
        changing = ["video_adapter"] if self.model.video_adapter is not None else []
        changing += [f"unfrozen={name}" for name in self.model.unfrozen if name != "language_model"]
        if self.data.cache == "tokens" and changing:
            raise MomeError(
                f"data.cache=tokens keeps the tokens of an encoder that model.{changing[0]} trains: choose clips"
            )
        every, log = self.validation.every_steps, self.optim.log_steps
        if every % log:
            raise MomeError(
                f"validation.every_steps={every} is not a multiple of optim.log_steps={log}, "
                "which resumed runs need to log the same losses: change one of them"
            )


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
        name: a YAML file, whose ``base`` lists recipes that it starts from, or the name of a shipped recipe.
        overrides: ``key=value`` with dotted keys, such as ``optim.epochs=3``.

    Raises:
        MomeError: the file or a key is unknown (the nearest is suggested), or a value does not fit.
    """
    merged = OmegaConf.structured(Recipe)
    for source, layer in read_layers(name):
        if layer and not {f.name for f in fields(Recipe)}.intersection(layer):
            raise MomeError(f"{source} is no recipe: none of its keys is one of {', '.join(_PARTS)} and output")
        merged = _merge(merged, layer, source)
    for text in overrides:
        merged = _merge(merged, read_override(text), f"'{shortened(text)}'")
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise MomeError(f"{name} lacks {', '.join(missing)}: add it to the recipe or give {missing[0]}=VALUE")
    recipe = cast(Recipe, OmegaConf.to_object(merged))
    recipe.output = recipe.output or f"runs/{Path(name).stem}"
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
