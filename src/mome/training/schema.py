"""What a recipe may say: its keys with their defaults, and the values that each can have.

A wrong value is refused where the dataclass is made, so that every command that reads a recipe refuses alike.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from omegaconf import MISSING

from mome.config.fields import BACKBONES
from mome.connectors.pooling import CompressionMethod
from mome.encoders import AudioContext
from mome.errors import MomeError, shortened
from mome.rates import TASKS, Rates

LARGEST_SNR = 100.0  # decibels
MOST = 10**9  # of whatever is counted
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes, as file systems have it

Check = Callable[[str, Any], None]


def _refuse(key: str, value: object, remedy: str) -> MomeError:
    return MomeError(f"{key}={shortened(value)} is not possible: {remedy}")


def _whole(least: int, most: int = MOST) -> Check:
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


@dataclass
class ModelRecipe:
    """What is built; the names are those of :class:`~mome.model.MomeConfig`, which checks the nested options."""

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

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "model.",
            audio_encoder=_path,
            video_encoder=_path,
            language_model=_path,
            audio_encoder_revision=_path,
            video_encoder_revision=_path,
            language_model_revision=_path,
            audio_context=_one_of(get_args(AudioContext)),
            audio_rates=_each(_whole(1, 1000)),
            video_rates=_each(_whole(1, 1000)),
            compression=_one_of(get_args(CompressionMethod)),
            projector_hidden=_whole(1),
            unfrozen=_each(_one_of(BACKBONES)),
            balance_weight=_number,
            decorrelation_weight=_number,
            prompts=_tasks,
        )


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

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "data.",
            manifests=_each(_path, empty=False),
            train_split=_filled,
            valid_split=_filled,
            cache=_one_of(("clips", "tokens")),
            cache_folder=_path,
            limit=_whole(1),
            variants=_whole(1, 1000),
            max_frames=_whole(1),
            workers=_whole(0, 256),
        )


@dataclass
class AugmentRecipe:
    """Training-time changes of clips; an SNR of ``.inf`` stands for no noise."""

    crop: bool = True
    flip: bool = True
    time_mask: bool = True
    noise: list[str] = field(default_factory=list)
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
            rates_per_step=_whole(1),
            rates_up_to=_whole(1),
            epochs=_epochs,
            steps=_whole(1),
            learning_rate=_positive,
            weight_decay=_number,
            betas=_betas,
            warmup_steps=_whole(0),
            clip_norm=_number,
            accumulate=_whole(1),
            precision=_one_of(("fp32", "bf16")),
            log_steps=_whole(1),
            seed=_whole(0, 2**32 - 1),
        )
        drawn = [name for name in ("rates_per_step", "one_rate_per_task", "rates_up_to") if getattr(self, name)]
        if len(drawn) > 1:
            raise MomeError(f"optim.{drawn[0]} and optim.{drawn[1]} exclude each other: give one")
        if not any(self.task_weights.get(task, 1) for task in self.tasks):
            raise MomeError("optim.task_weights leaves every task without weight: give one a number above 0")


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
            every_steps=_whole(1),
            limit=_whole(1),
            batch=_whole(1),
        )


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
