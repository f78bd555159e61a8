"""The configuration of a recogniser, and what follows from its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from transformers import AutoConfig, PreTrainedConfig

from mome.adapters import ADAPTERS, AdapterConfig, LoraAdapterConfig, adapter_config_from_dict
from mome.config.fields import BACKBONES, Compatibility, Rounding, check_fields, check_option
from mome.config.generation import CTC_WEIGHT, check_decoding
from mome.connectors import ConnectorConfig, Surroundings, connector_config
from mome.connectors.pooling import CompressionMethod, check_rate
from mome.encoders import AudioContext, AudioEncoder, audio_encoder
from mome.errors import MomeError
from mome.options import check_whole, options_from_dict
from mome.rates import TASKS, Rates, RateSet, Task

DEFAULT_PROMPTS: dict[str, str] = {
    "avsr": "Transcribe speech and video to text.",
    "asr": "Transcribe speech to text.",
    "vsr": "Transcribe video to text.",
}


@dataclass(frozen=True)
class VideoAdapterConfig:
    """LoRA on the query and value projections of AV-HuBERT's layers.

    Source: Llama-AVSR (its model for lip reading) and Omni-AVSR.

    Attributes:
        bottleneck: rank of the updates; 64 in the published systems, a sixteenth of AV-HuBERT Large's width.
        scale: fixed factor on the updates.
    """

    bottleneck: int
    scale: float = 2.0


@dataclass(frozen=True)
class CtcConfig:
    """A CTC head for joint decoding: an aligned connector beside the model's own, see :mod:`mome.model.ctc`.

    Attributes:
        tokens: how many tokens it knows.
        audio_rate, video_rate: its rates; ``None`` for a modality that it does not hear.
        compression, projector_hidden, projector_norm, connector: as in :class:`MomeConfig`.
    """

    tokens: int
    audio_rate: int | None = None
    video_rate: int | None = None
    compression: CompressionMethod = "average"
    projector_hidden: int = 2048
    projector_norm: bool = False
    connector: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` if an option is not possible."""
        check_whole("ctc option tokens", self.tokens)
        for name in ("compression", "projector_hidden", "projector_norm", "connector"):
            check_option(name, getattr(self, name), "ctc option ")
        rates = [rate for rate in (self.audio_rate, self.video_rate) if rate is not None]
        for rate in rates:
            check_rate(rate)
        if not rates:
            raise MomeError("ctc has neither audio_rate nor video_rate: give one")

    def heard(self, rates: Rates) -> Rates | None:
        """The head's rates for a clip that is read at ``rates``; ``None`` if it hears nothing of it."""
        audio = None if rates.audio is None else self.audio_rate
        video = None if rates.video is None else self.video_rate
        return None if audio is None and video is None else Rates(audio, video)

    @property
    def connector_config(self) -> ConnectorConfig:
        """The connector's options as a dataclass."""
        return connector_config(self.connector)

    def surroundings(self, around: Surroundings) -> Surroundings:
        """The rates and widths that the head's connector is built for, in a model with these."""
        return replace(
            around,
            audio_rates=(self.audio_rate,) if self.audio_rate else (),
            video_rates=(self.video_rate,) if self.video_rate else (),
            audio_width=around.audio_width if self.audio_rate else None,
            video_width=around.video_width if self.video_rate else None,
            hidden=self.projector_hidden,
            compression=self.compression,
            norm=self.projector_norm,
        )


class MomeConfig(PreTrainedConfig):
    """Configuration of :class:`~mome.model.MomeForSpeechRecognition`.

    Attributes:
        audio_config: the audio encoder's configuration, of type whisper, wavlm, hubert or avhubert; ``None`` for a
            model of video alone. With the connector ``joint`` it is that of the video encoder, which reads the sound.
        video_config: the AV-HuBERT encoder's configuration; ``None`` for a model of audio alone.
        text_config: the language model's configuration (of a type in ``LANGUAGE_MODELS``).
        audio_encoder, video_encoder, language_model: where the frozen weights are: a hub id, a local folder,
            or ``./NAME`` for a sub-folder of the checkpoint. ``None``: not used, or initialised at random.
        audio_encoder_revision, video_encoder_revision, language_model_revision: hub revisions.
        audio_encoder_rounding, video_encoder_rounding, language_model_rounding: ``"bfloat16"`` or ``"float16"``: the
            frozen weights are rounded to it when they are loaded, also where they are used in float32; ``None``: they
            are not rounded.
        audio_context: ``"window"``, ``"clip"`` or ``"clip+silence"``, see
            :class:`~mome.encoders.whisper.WhisperAudioEncoder`.
        audio_rates, video_rates: the rates of each modality.
        compression: ``"average"``, ``"stack"`` or ``"segments"`` (:mod:`mome.connectors.pooling`).
        projector_hidden: width between the projector's two linear layers.
        projector_norm: whether the projectors end with a LayerNorm.
        connector: the connector's ``type`` (``projectors``, ``shared``, ``mixture``, ``resampler``, ``qformer``,
            ``joint``) and options, see :mod:`mome.connectors`; ``None``: a projector for each rate.
        adapter: the ``type`` (``mome`` or ``lora``) and options of the language model's adapter; ``None``: only the
            connector is trained. A LoRA's ``specific`` may be ``"rates"`` (one update for each pair of rates: LoRA-SS
            and -MSS) or ``"tasks"`` (one update for each task: Omni-AVSR-T and -ST), and so may MoME's ``routers`` (one
            router for each).
        video_adapter: options of a LoRA on the video encoder, see :class:`VideoAdapterConfig`; ``None``: no LoRA.
        ctc: options of a CTC head for joint decoding, see :class:`CtcConfig`; ``None``: the language model decodes
            alone.
        unfrozen: backbones that are trained entirely, by the names above; their weights are stored with the
            trained parts.
        added_tokens: number of rows appended to the language model's embedding and output head; their ids follow
            ``text_config.vocab_size``, and they are frozen.
        video_statistics: whether the running statistics of the video encoder's batch norms are stored with the
            trained parts and replace those of the backbone.
        compat: ``"official"`` prepares clips as the code of the published systems does, see docs/compat.md;
            ``None``: lengths and padding are exact.
        tasks: the tasks that the model is for.
        only: the one pair of rates (``"16,2"``) or the one task (``"asr"``) that the model can be used at, because the
            adapter's update for it was merged into the language model; ``None``: all rates and tasks.
        balance_weight: factor of the routers' load-balancing loss.
        decorrelation_weight: factor of :func:`~mome.model.decorrelation.decorrelation_loss` (10000 for Llama-AVSR
            with the sink loss); 0 leaves it out.
        prompts: the prompt of each task; missing ones are those of the published systems.
        prompt_ids: the prompts' token ids, set when the model is built.
        start_ids: token ids before everything else (BOS in the published systems).
        audio_markers, video_markers: pairs of token ids around the audio and video tokens, or ``None``.
        generation: default options of decoding (:data:`mome.config.generation.NAMES`).
        segment_seconds: mean length of the clips that it was trained on: longer recordings are cut into parts of about
            that at most; ``None``: of what fits the encoders' window.
        description: one line for the user about what this model is for.
    """

    model_type = "mome"

    audio_config: Any = None
    video_config: Any = None
    text_config: Any = None
    audio_encoder: str | None = None
    video_encoder: str | None = None
    language_model: str | None = None
    audio_encoder_revision: str | None = None
    video_encoder_revision: str | None = None
    language_model_revision: str | None = None
    audio_encoder_rounding: Rounding | None = None
    video_encoder_rounding: Rounding | None = None
    language_model_rounding: Rounding | None = None
    audio_context: AudioContext = "window"
    audio_rates: list[int] = field(default_factory=list)
    video_rates: list[int] = field(default_factory=list)
    compression: CompressionMethod = "average"
    projector_hidden: int = 2048
    projector_norm: bool = False
    connector: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    video_adapter: dict[str, Any] | None = None
    ctc: dict[str, Any] | None = None
    unfrozen: list[str] = field(default_factory=list)
    added_tokens: int = 0
    video_statistics: bool = False
    compat: Compatibility | None = None
    tasks: Any = TASKS
    only: str | None = None
    balance_weight: float = 0.01
    decorrelation_weight: float = 0.0
    prompts: dict[str, str] = field(default_factory=dict)
    prompt_ids: Any = None
    start_ids: Any = ()
    audio_markers: Any = None
    video_markers: Any = None
    generation: dict[str, Any] | None = None
    segment_seconds: float | None = None
    description: str | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the options, and turn nested dictionaries into configuration objects.

        Raises:
            MomeError: an option is not possible, or two exclude each other.
        """
        check_fields(self)
        for name in ("audio_config", "video_config", "text_config"):
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, AutoConfig.for_model(**value))
        if self.connector_config.joint:
            self.audio_config = self.video_config
        self.audio_rates = list(self.audio_rates)
        self.video_rates = list(self.video_rates)
        self.start_ids = list(self.start_ids)
        audio, video = bool(self.audio_rates), bool(self.video_rates)
        has_rates = {"avsr": audio and video, "asr": audio, "vsr": video}
        self.tasks = [task for task in TASKS if task in self.tasks and has_rates[task]]
        self.prompts = {**DEFAULT_PROMPTS, **(self.prompts or {})}
        self.unfrozen = list(self.unfrozen)
        self.check_options()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def check_options(self) -> None:
        """Raise :class:`MomeError` if an option is not possible or two exclude each other."""
        encoder, connector = self.audio_encoder_class, self.connector_config
        needed = connector.audio_frames_per_second
        if encoder is not None and needed not in (None, given := encoder.frames_per_second(self.audio_config)):
            raise MomeError(
                f"the connector {connector.kind} needs {needed} audio frames a second, and the audio encoder gives "
                f"{given}: choose another encoder or connector"
            )
        if connector.joint and (
            self.audio_encoder is not None or getattr(self.video_config, "model_type", "") != "avhubert"
        ):
            raise MomeError(
                "with the connector joint an AV-HuBERT, video_encoder, reads the sound: leave out audio_encoder"
            )
        if connector.joint and self.tasks != ["avsr"]:
            raise MomeError(f"the connector joint reads sound and lips together: tasks={self.tasks} must be [avsr]")
        option, by = self._grouping
        if self.rate_set.open and by == "rates":
            raise MomeError(f"adapter {option}=rates has a part for each listed rate, a resampler takes any rate")
        for name in self.unfrozen:
            if name not in BACKBONES:
                raise MomeError(f"unfrozen holds '{name}': the backbones are {', '.join(BACKBONES)}")
        for name in BACKBONES:
            rounding = getattr(self, f"{name}_rounding")
            if rounding not in (None, *get_args(Rounding)):
                raise MomeError(f"{name}_rounding={rounding} is unknown: choose {' or '.join(get_args(Rounding))}")
        if self.generation is not None:
            check_decoding(self.generation)
            if self.generation.get(CTC_WEIGHT) and self.ctc is None:
                raise MomeError(f"generation has {CTC_WEIGHT}, and the model has no ctc: leave it out")
        if self.ctc_config is not None:
            self._check_ctc(self.ctc_config)
        self._check_tokens()
        if self.compat not in (None, "official"):
            raise MomeError(f"compat={self.compat} is unknown: choose official, or leave it out")
        if self.compat is not None and self.audio_rates and self.audio_context != "window":
            raise MomeError("compat=official needs audio_context=window, which the published systems have")

    def _check_ctc(self, head: CtcConfig) -> None:
        """Raise :class:`MomeError` if a CTC head hears what the model does not."""
        if head.connector_config.joint != self.connector_config.joint:
            raise MomeError("ctc has the connector joint, or the model has, and the other has not: give both or none")
        for side in ("audio", "video"):
            if getattr(head, f"{side}_rate") is not None and getattr(self, f"{side}_config") is None:
                raise MomeError(f"ctc option {side}_rate is given, but the model has no {side} encoder: leave it out")

    def _check_tokens(self) -> None:
        """Raise :class:`MomeError` if a token id is not in the language model's vocabulary."""
        size = getattr(self.text_config, "vocab_size", None)
        if size is None:
            return
        size += self.added_tokens
        used = {"start_ids": self.start_ids, **{f"{side}_markers": self.markers(side) for side in ("audio", "video")}}
        ends = {name: (self.generation or {}).get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        used |= {name: [ids] if isinstance(ids, int) else ids or [] for name, ids in ends.items()}
        used |= {f"prompt_ids of {task}": ids for task, ids in (self.prompt_ids or {}).items()}
        for name, ids in used.items():
            if ids and max(ids) >= size:
                raise MomeError(f"{name} holds token {max(ids)}, but the language model has {size} tokens: correct it")

    @property
    def rate_set(self) -> RateSet:
        """The rates that a model of this configuration can be used at."""
        any_rate = self.connector_config.any_rate
        rate_set = RateSet(tuple(self.audio_rates), tuple(self.video_rates), tuple(self.tasks), any_rate)
        return rate_set if self.only is None else rate_set.only(self.only)

    @property
    def adapter_config(self) -> AdapterConfig | None:
        """The adapter's options as a dataclass."""
        if self.adapter is None:
            return None
        groups, (option, _) = self.adapter_groups, self._grouping
        return adapter_config_from_dict({**self.adapter, option: len(groups)} if groups else self.adapter)

    def check_top_k(self, top_k: int, name: str = "active_experts") -> AdapterConfig:
        """The adapter's options, if a token can have ``top_k`` active routed experts.

        Args:
            top_k: number of experts.
            name: what the user calls it.

        Raises:
            MomeError: the adapter has fewer routed experts, or none.
        """
        adapter = self.adapter_config
        if adapter is None or not adapter.most_active:
            raise MomeError(f"{name} = {top_k} is not possible: the model has no routed experts, leave it out")
        if not 1 <= top_k <= adapter.most_active:
            raise MomeError(f"{name} = {top_k} is not possible: choose 1 to {adapter.most_active}, the routed experts")
        return adapter

    @property
    def _grouping(self) -> tuple[str, Any]:
        """The adapter's option that says what its groups are, and its value; ``None`` by default."""
        adapter = self.adapter or {}
        kind = ADAPTERS.get(str(adapter.get("type")), AdapterConfig)
        by = adapter.get(kind.group_option)
        return kind.group_option, None if by == getattr(kind, kind.group_option, None) else by

    @property
    def adapter_groups(self) -> list[Rates] | list[Task]:
        """The pair of rates or the task of each specific LoRA update or router, in order; empty without such."""
        option, by = self._grouping
        if by == "rates":
            return list(self.rate_set.rates())
        if by == "tasks":
            return list(self.tasks)
        if by:
            raise MomeError(f"adapter option {option} = {by!r} is not possible here: choose rates or tasks")
        return []

    def adapter_group(self, rates: Rates) -> int:
        """Index into :attr:`adapter_groups` of the update for a clip at ``rates``.

        Raises:
            MomeError: the rate set does not have these rates.
        """
        self.rate_set.check(rates)
        groups: Sequence[Rates | Task] = self.adapter_groups
        return groups.index(rates.task if self._grouping[1] == "tasks" else rates)

    @property
    def video_adapter_config(self) -> LoraAdapterConfig | None:
        """The video encoder's LoRA as a dataclass."""
        if self.video_adapter is None:
            return None
        kinds, values = {"lora": VideoAdapterConfig}, {"type": "lora", **self.video_adapter}
        return LoraAdapterConfig(**asdict(options_from_dict("video_adapter", kinds, values)))

    @property
    def ctc_config(self) -> CtcConfig | None:
        """The CTC head's options as a dataclass."""
        return None if self.ctc is None else options_from_dict("ctc", {"head": CtcConfig}, {"type": "head", **self.ctc})

    @property
    def connector_config(self) -> ConnectorConfig:
        """The connector's options as a dataclass."""
        return connector_config(self.connector)

    @property
    def surroundings(self) -> Surroundings:
        """The rates and widths that a connector is built for."""
        audio, video = self.audio_config, self.video_config
        return Surroundings(
            audio_rates=tuple(self.audio_rates),
            video_rates=tuple(self.video_rates),
            audio_width=None if audio is None else audio.hidden_size,
            video_width=None if video is None else video.hidden_size,
            out_features=self.text_config.hidden_size,
            hidden=self.projector_hidden,
            compression=self.compression,
            norm=self.projector_norm,
        )

    @property
    def audio_encoder_class(self) -> type[AudioEncoder] | None:
        """The class that wraps the audio encoder; ``None`` for a model of video alone."""
        return None if self.audio_config is None else audio_encoder(self.audio_config)

    def markers(self, modality: str) -> list[int]:
        """Token ids before and after a modality's tokens; empty without markers."""
        return list(getattr(self, f"{modality}_markers") or ())

    def text_ids(self, task: Task) -> list[int]:
        """Token ids of the task's prompt.

        Raises:
            MomeError: the configuration has none.
        """
        if task not in (self.prompt_ids or {}):
            raise MomeError(f"the model's config.json has no prompt_ids of {task}: add them, or choose another task")
        return list(self.prompt_ids[task])

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's configuration; Transformers reads vocabulary and cache sizes from it."""
        return self.text_config if self.text_config is not None else self
