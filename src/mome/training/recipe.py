"""What a recipe can say: its keys with types, defaults and checks.

The dataclasses check their values when they are made, so that all commands refuse the same recipes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, Literal, get_origin

from omegaconf import MISSING

from mome.clip import LARGEST_SNR
from mome.config import MomeConfig
from mome.config.fields import BACKBONES, check_option
from mome.errors import MomeError, shortened
from mome.rates import TASKS, Rates, RateSet

MOST = 10**9  # the largest integer that a recipe may give
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes, the limits of file systems

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


def _share(key: str, value: float) -> None:
    if not 0 <= value <= 100:
        raise _refuse(key, value, "give a number from 0 to 100")


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
    """Check that a file can have this name; whether it exists is checked when it is used."""
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
    """A check of a list: ``check`` for each element, and for an empty list unless ``empty`` allows it."""

    def check_all(key: str, values: Sequence[Any]) -> None:
        if not values and not empty:
            raise MomeError(f"{key} is empty: give one or more, such as {key}=[VALUE], or leave it out")
        for value in values:
            check(key, value)

    return check_all


def _tasks(key: str, tasks: Sequence[str]) -> None:
    """Check a list of tasks, or the keys of a dict."""
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


def _rate_weights(key: str, weights: dict[str, float]) -> None:
    for rates, weight in weights.items():
        _rates(key, rates)
        _number(f"{key}.{shortened(rates)}", weight)


def _betas(key: str, value: list[float]) -> None:
    if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
        raise _refuse(key, value, "give two numbers from 0 to less than 1, such as [0.9,0.98]")


def _snr(key: str, value: float) -> None:
    if not (value == math.inf or abs(value) <= LARGEST_SNR):
        raise MomeError(f"{key} holds {value}: give -{LARGEST_SNR:g} to {LARGEST_SNR:g} dB, or .inf for clean")


def _check(part: Any, prefix: str, **checks: Check) -> None:
    """Run the checks of these keys on their values; null and missing values pass."""
    for key, check in checks.items():
        value = getattr(part, key)
        if value is None or value == MISSING:
            continue
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if any(isinstance(item, list | dict) for item in items):
            raise MomeError(f"{prefix}{key} holds a list or keys of its own where a single value belongs: correct it")
        check(prefix + key, value)


# Options of MomeConfig that a recipe cannot give: build, merge and convert set them.
_DERIVED = {
    *("audio_config", "video_config", "text_config", *(f"{name}_rounding" for name in BACKBONES)),
    *("tasks", "only", "compat", "added_tokens", "video_statistics", "initializer_range"),
    *("start_ids", "prompt_ids", "audio_markers", "video_markers"),
}
MODEL_OPTIONS: dict[str, Any] = {
    name: kind for name, kind in get_annotations(MomeConfig, eval_str=True).items() if name not in _DERIVED
}
"""The options of :class:`~mome.config.MomeConfig` that a recipe can give, with their types."""


def _and_model_options(part: type) -> type:
    """Add :data:`MODEL_OPTIONS` with their defaults to a class that is about to become a dataclass."""
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
    """The model: the options in :data:`MODEL_OPTIONS`, and these.

    Attributes:
        markers: whether special tokens surround the audio and the video tokens, as published.
        instruction: text before the audio and video tokens; the task's prompt follows them.
        bos: whether the language model's start token comes first, as in the published systems.
        bos_taught: whether transcripts begin with the start token too, so that the model writes it (MMS-LLaMA).
        self_contained: whether the frozen weights are saved too.
    """

    language_model: str = MISSING
    markers: bool = False
    instruction: str = ""
    bos: bool = False
    bos_taught: bool = False
    self_contained: bool = False

    if TYPE_CHECKING:  # a type checker does not know the added options

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(self, "model.", **{name: _path for name in MODEL_OPTIONS if name.startswith(BACKBONES)})
        for name in MODEL_OPTIONS:
            check_option(name, getattr(self, name), "model.")
        _tasks("model.prompts", list(self.prompts))


@dataclass
class DataRecipe:
    """The clips.

    Attributes:
        manifests: CSV files that list clips; the user names them.
        source: the corpus that a message asks for if there is no manifest.
        train_split, valid_split: splits of the manifests.
        cache: ``"clips"`` encodes clips in every epoch, ``"tokens"`` caches the encoders' features of ``variants``
            differently augmented variants of each clip.
        cache_folder: where clips and features are cached.
        limit: number of training clips, drawn once; ``None`` for all.
        max_frames: video frames of a batch, padding included.
        workers: processes that load clips.
    """

    manifests: list[str] = field(default_factory=list)
    source: str = "your clips, written by `mome data folder DIR -o FILE`"
    train_split: str = "train"
    valid_split: str = "valid"
    cache: str = "clips"
    cache_folder: str = "runs/cache"
    limit: int | None = None
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
    """Augmentation of training clips.

    Attributes:
        crop, flip, time_mask: whether to crop and mirror pictures at random, and to mask spans of time.
        noise: recordings to mix in; an empty list for none. If it is ``None``, the user must name them.
        snr: signal-to-noise ratios in dB to draw from; infinity means no noise.
        feature_time_masks: spans of time to zero in the encoders' features, for each 100 frames (2 s of sound, 4 s of
            video); with ``data.cache: tokens`` only, drawn anew in every epoch (SpecAugment).
        feature_time_width: frames of the longest such span.
        feature_channel_masks: spans of neighbouring features to zero in all frames, likewise.
        feature_channel_width: features of the widest such span.
    """

    crop: bool = True
    flip: bool = True
    time_mask: bool = True
    noise: list[str] | None = field(default_factory=list)
    snr: list[float] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, math.inf])
    feature_time_masks: float = 0.0
    feature_time_width: int = 20
    feature_channel_masks: int = 0
    feature_channel_width: int = 50

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "augment.",
            noise=_each(_path),
            snr=_each(_snr),
            feature_time_masks=_share,
            feature_time_width=_integer(1),
            feature_channel_masks=_integer(0, 100),
            feature_channel_width=_integer(1),
        )


@dataclass
class OptimRecipe:
    """Optimisation.

    Attributes:
        tasks: tasks to train.
        task_weights: factors on the loss by task, 1 by default.
        rate_weights: factors on the loss by rates, such as ``{"16,5": 2}``, 1 by default (MoME's c_ij). The loss is
            the mean over the number of rates, whatever the factors.
        rates: rates to train; ``None`` for all rates of the tasks.
        rates_per_step: number of rates to draw in each step; ``None`` for all.
        one_rate_per_task: whether to draw one audio and one video rate in each step, which all tasks use (Omni-AVSR).
        rates_up_to: draw them from 1 to this instead, with a uniform number of tokens, for a connector that takes
            any rate (MQT).
        steps: number of updates to train for, instead of ``epochs``.
        connector_learning_rate: the connector's own, such as a lower one after ``align``; ``None`` for
            ``learning_rate``.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        accumulate: batches of one update.
    """

    tasks: list[str] = field(default_factory=lambda: ["avsr"])
    task_weights: dict[str, float] = field(default_factory=dict)
    rate_weights: dict[str, float] = field(default_factory=dict)
    rates: list[str] | None = None
    rates_per_step: int | None = None
    one_rate_per_task: bool = False
    rates_up_to: int | None = None
    epochs: float = 10
    steps: int | None = None
    learning_rate: float = 1e-3
    connector_learning_rate: float | None = None
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
        """Raise :class:`MomeError` naming the key whose value is not possible, or two keys that exclude each other."""
        _check(
            self,
            "optim.",
            tasks=_some_tasks,
            task_weights=_task_weights,
            rate_weights=_rate_weights,
            rates=_each(_rates, empty=False),
            rates_per_step=_integer(1),
            rates_up_to=_integer(1),
            epochs=_epochs,
            steps=_integer(1),
            learning_rate=_positive,
            connector_learning_rate=_positive,
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
        if self.rate_weights and self.rates_up_to:
            raise MomeError("optim.rate_weights and optim.rates_up_to exclude each other: give one")

    def rates_of(self, rate_set: RateSet) -> list[Rates]:
        """The rates to train on.

        Raises:
            MomeError: the rate set has no rates for the tasks, or not those in ``rates``; ``rate_weights`` has others,
                or leaves no loss.
        """
        rates = list(rate_set.rates())
        if not rates:
            tasks = ", ".join(task for task in TASKS if task in self.tasks)
            raise MomeError(f"the model has no rates for {tasks}: set model.audio_rates and video_rates")
        if self.rates_up_to is not None and not rate_set.open:
            raise MomeError("optim.rates_up_to draws any rates: it needs model.connector.type=resampler")
        if self.rates is not None:
            rates = [rate_set.check(Rates.parse(text)) for text in self.rates]
        for name in self.rate_weights:
            if name not in map(str, rates):
                raise MomeError(
                    f"optim.rate_weights has {shortened(name)}, which is not trained: the rates are "
                    f"{' '.join(map(str, rates))}"
                )
        if self.rate_weights and not any(
            self.rate_weights.get(str(pair), 1) * self.task_weights.get(pair.task, 1) for pair in rates
        ):
            raise MomeError("optim.rate_weights leaves every rate without weight: give one a number above 0")
        return rates


@dataclass
class AlignRecipe:
    """Alignment of the connector to the language model's embeddings, see :class:`~mome.model.alignment.Alignment`.

    With ``epochs`` or ``steps`` it is a stage of its own before the training through the language model, at all rates
    of every modality. What it leaves to ``optim`` and ``validation`` is as there.

    Attributes:
        epochs: passes over the training clips; ``None`` for no such stage, unless there are ``steps``.
        steps: number of updates, instead of ``epochs``.
        max_frames: video frames of a batch; ``None`` for ``data.max_frames``.
        weight: factor of the alignment's loss beside the others in the training through the language model.
        start: a model folder, such as the folder ``align`` of another run, whose connector the training starts from
            instead of a stage of its own; it may have further rates.
    """

    epochs: float | None = None
    steps: int | None = None
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    max_frames: int | None = None
    weight: float = 0.0
    start: str | None = None

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        _check(
            self,
            "align.",
            epochs=_epochs,
            steps=_integer(1),
            learning_rate=_positive,
            warmup_steps=_integer(0),
            max_frames=_integer(1),
            weight=_number,
            start=_path,
        )

    @property
    def is_stage(self) -> bool:
        """Whether there is a stage before the training through the language model."""
        return self.start is None and (self.epochs is not None or self.steps is not None)


@dataclass
class ValidationRecipe:
    """Word error rate on the validation split.

    Attributes:
        rates: rates to validate at. The first ones choose the best checkpoint. ``None`` for the finest and the
            coarsest of each task, an empty list for no validation.
        every_steps: updates between two validations, and between two checkpoints.
        limit: number of validation clips, drawn once; ``None`` for all.
        batch: clips transcribed together.
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
        """The rates to validate at; an empty list for no validation.

        Raises:
            MomeError: the rate set does not have one of the rates.
        """
        if self.rates is not None:
            return [rate_set.check(Rates.parse(text)) for text in self.rates]
        by_task = [list(rate_set.rates([task])) for task in rate_set.tasks]
        return list(dict.fromkeys(pair for rates in by_task if rates for pair in (rates[0], rates[-1])))


@dataclass
class Recipe:
    """A training run."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    align: AlignRecipe = field(default_factory=AlignRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    output: str = ""  # runs/NAME by default

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` if values of different parts do not go together."""
        if self.output:
            _path("output", self.output)
        trained = ["video_adapter"] if self.model.video_adapter is not None else []
        trained += [f"unfrozen={name}" for name in self.model.unfrozen if name != "language_model"]
        if self.data.cache == "tokens" and trained:
            raise MomeError(
                f"data.cache=tokens keeps the features of an encoder that model.{trained[0]} trains: choose clips"
            )
        if self.data.cache != "tokens":
            for key in ("feature_time_masks", "feature_channel_masks"):
                if getattr(self.augment, key):
                    raise MomeError(f"augment.{key} masks cached features: give data.cache=tokens, or leave it out")
        every, log = self.validation.every_steps, self.optim.log_steps
        if every % log:
            raise MomeError(
                f"validation.every_steps={every} is not a multiple of optim.log_steps={log}, "
                "which resumed runs need to log the same losses: change one of them"
            )


PARTS: dict[str, type] = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "align": AlignRecipe,
    "optim": OptimRecipe,
    "validation": ValidationRecipe,
}
