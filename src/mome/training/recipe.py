"""What a recipe can say: its keys with types, defaults and checks.

The dataclasses check their values when they are made, so that all commands refuse the same recipes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, Literal, get_origin

from omegaconf import MISSING

from mome.config import MomeConfig
from mome.config.fields import BACKBONES, check_option
from mome.errors import MomeError, shortened
from mome.rates import TASKS, Rates, RateSet
from mome.training import checks

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
        checks.run(self, "model.", **{name: checks.path for name in MODEL_OPTIONS if name.startswith(BACKBONES)})
        for name in MODEL_OPTIONS:
            check_option(name, getattr(self, name), "model.")
        checks.tasks("model.prompts", list(self.prompts))


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
        skip_percent: how many clips of a hundred may be skipped because they cannot be read.
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
    skip_percent: float = 1.0

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        checks.run(
            self,
            "data.",
            manifests=checks.each(checks.path),
            source=checks.filled,
            train_split=checks.filled,
            valid_split=checks.filled,
            cache=checks.one_of(("clips", "tokens")),
            cache_folder=checks.path,
            limit=checks.integer(1),
            variants=checks.integer(1, 1000),
            max_frames=checks.integer(1),
            workers=checks.integer(0, 256),
            skip_percent=checks.share,
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
        token_noise: share of each transcript's tokens that the language model reads as other tokens of the batch, so
            that it must listen; from 0 to 1.
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
    token_noise: float = 0.0

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible."""
        checks.run(
            self,
            "augment.",
            noise=checks.each(checks.path),
            snr=checks.each(checks.snr),
            feature_time_masks=checks.share,
            feature_time_width=checks.integer(1),
            feature_channel_masks=checks.integer(0, 100),
            feature_channel_width=checks.integer(1),
            token_noise=checks.fraction,
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
        top_k: numbers of active routed experts, of which one is drawn in each step; ``None`` for the adapter's own.
        start: a trained model (a folder, a hub id or a bundled name) whose connector and adapters the training starts
            from, instead of new ones and their alignment.
        steps: number of updates to train for, instead of ``epochs``.
        connector_learning_rate: the connector's own, such as a lower one after ``align``; ``None`` for
            ``learning_rate``.
        scheduler: how the learning rate goes on after the warm-up: down to 0 like a cosine or a line, or constant.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        average_last: number of checkpoints whose mean is the run's final model, the last ones; ``None`` for the one
            checkpoint with the least word error rate, or the last if nothing is validated.
        report_to: where losses go besides ``history.json``: ``tensorboard``, ``wandb``, ``trackio``; an empty list for
            nowhere.
        accumulate: batches of one update.
        language_model_dtype: of the frozen language model's linear layers: ``bfloat16``, with which ``precision: bf16``
            computes the same from half the memory, or ``int4`` by bitsandbytes; ``None`` for float32.
        shard: whether several processes share out the frozen weights of the language model's layers (FSDP2) instead
            of keeping all of them each.
        spare_memory: whether to keep the activations of one rate at a time instead of those of all rates of a step;
            what rates have in common is computed for each of them then.
    """

    tasks: list[str] = field(default_factory=lambda: ["avsr"])
    task_weights: dict[str, float] = field(default_factory=dict)
    rate_weights: dict[str, float] = field(default_factory=dict)
    rates: list[str] | None = None
    rates_per_step: int | None = None
    one_rate_per_task: bool = False
    rates_up_to: int | None = None
    top_k: list[int] | None = None
    start: str | None = None
    epochs: float = 10
    steps: int | None = None
    learning_rate: float = 1e-3
    connector_learning_rate: float | None = None
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    warmup_steps: int = 0
    scheduler: str = "cosine"
    clip_norm: float = 10.0
    accumulate: int = 1
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    language_model_dtype: str | None = None
    shard: bool = False
    spare_memory: bool = False
    log_steps: int = 10
    average_last: int | None = None
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    seed: int = 42

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible, or two keys that exclude each other."""
        checks.run(
            self,
            "optim.",
            tasks=checks.some_tasks,
            task_weights=checks.task_weights,
            rate_weights=checks.rate_weights,
            rates=checks.each(checks.rates, empty=False),
            rates_per_step=checks.integer(1),
            rates_up_to=checks.integer(1),
            top_k=checks.each(checks.integer(1), empty=False),
            start=checks.path,
            epochs=checks.epochs,
            steps=checks.integer(1),
            learning_rate=checks.positive,
            connector_learning_rate=checks.positive,
            weight_decay=checks.number,
            betas=checks.betas,
            warmup_steps=checks.integer(0),
            scheduler=checks.one_of(("cosine", "linear", "constant")),
            clip_norm=checks.number,
            accumulate=checks.integer(1),
            precision=checks.one_of(("fp32", "bf16")),
            language_model_dtype=checks.one_of(("bfloat16", "int4")),
            log_steps=checks.integer(1),
            average_last=checks.integer(1),
            report_to=checks.each(checks.one_of(("tensorboard", "wandb", "trackio"))),
            seed=checks.integer(0, 2**32 - 1),
        )
        if self.language_model_dtype == "int4" and self.shard:
            raise MomeError(
                "optim.shard cannot share out weights of optim.language_model_dtype=int4: give bfloat16 with it, or "
                "leave one out"
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
        ctc_weight: keep the aligned connector in the finished model, beside the one that the training goes on with, as
            a CTC head for joint decoding (:mod:`mome.model.ctc`) with this share; needs a stage of its own.
    """

    epochs: float | None = None
    steps: int | None = None
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    max_frames: int | None = None
    weight: float = 0.0
    start: str | None = None
    ctc_weight: float | None = None

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the key whose value is not possible, or if nothing would be kept."""
        checks.run(
            self,
            "align.",
            epochs=checks.epochs,
            steps=checks.integer(1),
            learning_rate=checks.positive,
            warmup_steps=checks.integer(0),
            max_frames=checks.integer(1),
            weight=checks.number,
            start=checks.path,
            ctc_weight=checks.fraction,
        )
        if self.ctc_weight is not None and not self.is_stage:
            raise MomeError("align.ctc_weight needs a stage of its own: give align.epochs, without align.start")

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
        checks.run(
            self,
            "validation.",
            rates=checks.each(checks.rates),
            every_steps=checks.integer(1),
            limit=checks.integer(1),
            batch=checks.integer(1),
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
            checks.path("output", self.output)
        trained = ["video_adapter"] if self.model.video_adapter is not None else []
        trained += [f"unfrozen={name}" for name in self.model.unfrozen if name != "language_model"]
        if self.data.cache == "tokens" and trained:
            raise MomeError(
                f"data.cache=tokens keeps the features of an encoder that model.{trained[0]} trains: choose clips"
            )
        if self.align.ctc_weight is not None:
            if self.optim.start is not None:
                raise MomeError("align.ctc_weight needs the alignment, which optim.start leaves out: give one of them")
            if moved := [*trained, *(f"unfrozen={name}" for name in self.model.unfrozen if name == "language_model")]:
                raise MomeError(f"align.ctc_weight keeps what model.{moved[0]} would train away from: leave one out")
        if self.data.cache != "tokens":
            for key in ("feature_time_masks", "feature_channel_masks"):
                if getattr(self.augment, key):
                    raise MomeError(f"augment.{key} masks cached features: give data.cache=tokens, or leave it out")
        for key, what in (("shard", "shares out"), ("language_model_dtype", "rounds")):
            if getattr(self.optim, key) and "language_model" in self.model.unfrozen:
                raise MomeError(f"optim.{key} {what} frozen weights, and model.unfrozen trains them: leave one out")
            if getattr(self.optim, key) and self.model.self_contained:
                raise MomeError(f"model.self_contained copies weights that optim.{key} {what}: leave one out")
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
