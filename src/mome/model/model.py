"""The recogniser: frozen encoders and language model, a trained connector and trained adapters.

A clip's way: :meth:`~MomeForSpeechRecognition.encode` (sound and video to features),
:meth:`~MomeForSpeechRecognition.connect` (features to tokens at the clip's rates),
:meth:`~MomeForSpeechRecognition.assemble` (tokens and prompt in one sequence), then the language model.

Shape notation: B clips, M audio frames of the extractor, T video frames, S transcript tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from mome.adapters import (
    AdapterContext,
    adapter_modules,
    adapter_parameters,
    attach,
    attach_lora,
    merge,
    use_context,
)
from mome.adapters.merge import lora_modules
from mome.checkpoints.checkpoint import SavedModel
from mome.checkpoints.language_models import check_language_model
from mome.checkpoints.vocabulary import extend_vocabulary
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.config.generation import CTC_WEIGHT, PER_SECOND, check_decoding, decoding_options, refuse_code
from mome.connectors import Connected, build_connector
from mome.encoders.avhubert import AVHubertModel
from mome.errors import MomeError
from mome.features import Features
from mome.model.alignment import Alignment
from mome.model.beam_search import generate
from mome.model.ctc import CtcHead, JointScores
from mome.model.forcing import force
from mome.model.limit import TokenLimit
from mome.model.objective import IGNORED_LABEL, Objective, SpeechOutput
from mome.model.sequence import LanguageInputs, assemble
from mome.rates import TASKS, Rates, RateSet


@dataclass(frozen=True)
class EncodedClips:
    """Encoder features of a batch; ``None`` for a modality that was not given."""

    audio: Features | None
    video: Features | None


class MomeForSpeechRecognition(SavedModel):
    """Audio-visual speech recogniser whose rates are chosen for each clip.

    Frozen encoders give features. The connector compresses them by the clip's rates and projects them to tokens,
    which the frozen language model reads with its adapters (Llama-MTSK; MoME, NeurIPS 2025).

    Args:
        config: the configuration.
        audio_encoder, video_encoder, language_model: pre-trained backbones; those not given are built from the
            configuration with random weights. The language model's own generation settings are dropped except for
            the special tokens; ``config.generation`` has the recogniser's.

    Raises:
        MomeError: the configuration asks for something that its backbones do not have.
    """

    config_class = MomeConfig
    base_model_prefix = "mome"
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        config: MomeConfig,
        audio_encoder: PreTrainedModel | None = None,
        video_encoder: AVHubertModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.merged = frozenset()
        self.alignment: Alignment | None = None  # set by a training that asks for it
        check_language_model(config.text_config)
        # A copy, because the language model changes its configuration when its vocabulary grows.
        self.language_model = language_model or AutoModelForCausalLM.from_config(
            copy.deepcopy(config.text_config), trust_remote_code=False
        )
        _keep_special_tokens(self.language_model)
        if config.added_tokens:
            extend_vocabulary(self.language_model, config.text_config.vocab_size + config.added_tokens)
        width = self.get_input_embeddings().embedding_dim
        if width != config.text_config.hidden_size:
            raise MomeError(
                f"the language model's embedding has width {width}, its layers have {config.text_config.hidden_size}: "
                "give one in which they agree"
            )
        self.audio_encoder = self.video_encoder = None
        wrapper = None if config.connector_config.joint else config.audio_encoder_class
        if wrapper is not None:
            self.audio_encoder = wrapper(audio_encoder or wrapper.new(config.audio_config), config.audio_context)
        if config.video_config is not None:
            self.video_encoder = video_encoder or AutoModel.from_config(config.video_config, trust_remote_code=False)
        self.connector = build_connector(config.connector_config, config.surroundings)
        self.ctc = None if config.ctc is None else CtcHead(config)
        for backbone in self.backbones():
            backbone.requires_grad_(False)
        if config.adapter_config is not None:
            config.adapter_config.count(config.text_config)  # refuses what has no cost
            attach(self.language_model, config.adapter_config)
        self._train_backbones()
        self.train(False)

    def _train_backbones(self) -> None:
        """Attach the video encoder's adapter, and unfreeze it and the backbones that ``unfrozen`` names."""
        adapter = self.config.video_adapter_config
        if adapter is not None:
            if self.video_encoder is None:
                raise MomeError("video_adapter is given, but the model has no video encoder: leave it out")
            attach_lora(self.video_encoder.encoder.layers, adapter)
            for _, parameter in adapter_parameters(self.video_encoder):
                parameter.requires_grad_(True)
        for name in self.config.unfrozen:
            if getattr(self, name) is None:
                raise MomeError(f"unfrozen names the {name}, but the model has none: leave it out")
            getattr(self, name).requires_grad_(True)

    def backbones(self) -> Iterable[nn.Module]:
        """The pre-trained parts."""
        return [part for part in (getattr(self, name) for name in BACKBONES) if part is not None]

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's token embedding."""
        return cast(nn.Embedding, self.language_model.get_input_embeddings())

    @property
    def rate_set(self) -> RateSet:
        """The rates that the model is for, as its configuration says."""
        return self.config.rate_set

    def encode(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        pixel_values_videos_mask: Tensor | None = None,
    ) -> EncodedClips:
        """Run the encoders on the given inputs; see :meth:`forward` for the shapes.

        The features have gradients if the encoder, or an adapter in it, is trained. With the connector ``joint``, both
        modalities have the features of the one encoder that reads them together, and both must be given.
        """
        if self.config.connector_config.joint:
            if input_features is None or pixel_values_videos is None:
                raise ValueError("this model reads sound and lips together: give both")
            sound = nn.functional.pad(input_features, (0, pixel_values_videos.shape[1] - input_features.shape[2]))
            joint = self._features(
                self.video_encoder, pixel_values_videos, pixel_values_videos_mask, sound.transpose(1, 2).to(self.dtype)
            )
            return EncodedClips(joint, joint)
        return EncodedClips(
            self._features(self.audio_encoder, input_features, input_features_mask),
            self._features(self.video_encoder, pixel_values_videos, pixel_values_videos_mask),
        )

    def _features(
        self, encoder: nn.Module | None, inputs: Tensor | None, mask: Tensor | None, *more: Tensor
    ) -> Features | None:
        if encoder is None or inputs is None:
            return None
        trained = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features: Features = encoder(inputs.to(self.dtype), mask, *more)
            return features

    def connect(self, encoded: EncodedClips, rates: Sequence[Rates]) -> Connected:
        """Compress and project the features of B clips, each clip at its own rates.

        Raises:
            MomeError: the connector does not have a clip's rates, or the merged adapter was for others.
        """
        if self.config.only is not None:
            for rate in rates:
                self.rate_set.check(rate)
        for modality, side in (("audio", encoded.audio), ("video", encoded.video)):
            if side is None and any(getattr(rate, modality) is not None for rate in rates):
                raise ValueError(f"rates ask for {modality}, but no {modality} was given")
        connected: Connected = self.connector(encoded.audio, encoded.video, rates)
        return connected

    def assemble(self, connected: Connected, rates: Sequence[Rates], labels: Tensor | None = None) -> LanguageInputs:
        """Put together the language model's input: start, audio, video, prompt and transcript tokens.

        Args:
            connected: the tokens of B clips.
            rates: B rates, which determine the prompt.
            labels: ``(B, S)`` transcript ids for teacher forcing, right-padded with -100.
        """
        text_ids = None if labels is None else [row[row != IGNORED_LABEL][:-1] for row in labels]
        return assemble(self.config, self.get_input_embeddings(), list(rates), connected, text_ids)

    def prepare(self, encoded: EncodedClips, rates: Sequence[Rates]) -> LanguageInputs:
        """The language model's input for generation: :meth:`connect`, then :meth:`assemble`."""
        return self.assemble(self.connect(encoded, rates), rates)

    def adapter_context(
        self, rates: Sequence[Rates], token_mask: Tensor | None = None, active_experts: int | None = None
    ) -> AdapterContext:
        """The context that a forward pass hands to its adapters.

        Args:
            rates: B rates, which determine each clip's group if the adapter has groups.
            token_mask: ``(B, L)`` bool, true on tokens, false on padding.
            active_experts: as in :meth:`forward`.
        """
        if active_experts is not None:
            self.config.check_top_k(active_experts)
        group: Tensor | int | None = None
        if self.config.adapter_groups:
            groups = [self.config.adapter_group(rate) for rate in rates]
            group = groups[0] if len(set(groups)) == 1 else torch.tensor(groups, device=self.device)
        return AdapterContext(token_mask, group, active_experts)

    def forward(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        pixel_values_videos_mask: Tensor | None = None,
        labels: Tensor | None = None,
        rates: Rates | Sequence[Rates] | None = None,
        matryoshka: Sequence[Rates] | None = None,
        task_weights: Mapping[str, float] | None = None,
        rate_weights: Mapping[str, float] | None = None,
        words: Tensor | None = None,
        encoded: EncodedClips | None = None,
        active_experts: int | None = None,
        spare_memory: bool = False,
        read: Tensor | None = None,
    ) -> SpeechOutput:
        """Compute the loss of transcripts by teacher forcing, at one or several rates.

        Args:
            input_features: ``(B, C, M)`` float, the audio encoder's input, such as C mel bins.
            input_features_mask: ``(B, M)`` bool, true on frames of the clip.
            pixel_values_videos: ``(B, T, H, W)`` float normalised mouth frames.
            pixel_values_videos_mask: ``(B, T)`` bool, true on frames of the clip.
            labels: ``(B, S)`` int64 transcript ids ending with the end token, right-padded with -100.
            rates: rates of all clips, or B rates, one for each clip.
            matryoshka: instead of ``rates``, several rates for Matryoshka training. All clips go through all of
                them; the loss is the mean over the rates.
            task_weights: with ``matryoshka``, factors on the transcript's loss by task, 1 by default
                (Omni-AVSR: ``{"vsr": 1.5}``).
            rate_weights: with ``matryoshka``, factors on the transcript's loss by rates, such as ``{"16,5": 2}``, 1 by
                default: the c_ij of MoME's loss. The mean is over the number of rates, whatever the factors.
            words: ``(B,)`` number of words of each transcript; only needed by a connector that learns the speech rate.
            encoded: features computed before, instead of the raw inputs.
            active_experts: routed experts of a MoME adapter active for a token, by default the adapter's ``top_k``.
            spare_memory: compute each rate's gradient in this pass already, so that the language model's activations
                of one rate at a time are kept. Otherwise rates that begin alike share what they have in common.
            read: ``(B, S)`` like the labels, what the language model reads of the transcripts; the labels by default.

        Returns:
            The loss with its terms, and the logits of the last rates. With an :attr:`alignment` without a weight, the
            connector's loss alone.
        """
        if encoded is None:
            encoded = self.encode(input_features, input_features_mask, pixel_values_videos, pixel_values_videos_mask)
        if labels is None:
            raise ValueError("forward needs labels; to transcribe, call generate")
        size = len(labels)
        if matryoshka is None:
            if rates is None:
                raise ValueError("forward needs rates, or the matryoshka rates to train on")
            passes = [[rates] * size if isinstance(rates, Rates) else list(rates)]
            names = ["rates" if len(set(passes[0])) > 1 else str(passes[0][0])]
        else:
            passes, names = [[pair] * size for pair in matryoshka], [str(pair) for pair in matryoshka]
        alone = self.alignment is not None and self.alignment.weight is None
        objective = Objective(
            {
                "load_balancing": self.config.balance_weight,
                "decorrelation": self.config.decorrelation_weight,
                "align": 0.0 if self.alignment is None else self.alignment.weight or 0.0,
                **self.config.connector_config.loss_weights(),
            }
        )
        batches = []
        for name, clip_rates in zip(names, passes, strict=True):
            connected = self.connect(encoded, clip_rates)
            objective.add_connector(connected)
            if self.alignment is not None:
                loss, left_out = self.alignment(connected, labels, self.get_input_embeddings().weight)
                objective.add_alignment(name, loss, left_out, alone)
            if not alone:
                batches.append(self.assemble(connected, clip_rates, labels if read is None else read))
        weights = [
            (task_weights or {}).get(batch.rates[0].task, 1.0) * (rate_weights or {}).get(name, 1.0)
            for name, batch in zip(names, batches, strict=False)  # no batch if aligned alone
        ]
        factors = [{**objective.weights, "transcript": weight} for weight in weights] if spare_memory else None
        logits = None
        for name, forced, weight in zip(
            names, force(self, batches, labels, active_experts, factors), weights, strict=False
        ):
            objective.add_pass(name, forced, weight)
            logits = forced.logits
        if words is not None:
            for name, loss in self.connector.losses(encoded.audio, encoded.video, words).items():
                objective.add(name, loss)
        return objective.output(logits)

    def generation_options(self, **given: Any) -> dict[str, Any]:
        """The options that :meth:`generate` uses: those given, and the model's own for the rest.

        See :func:`~mome.config.generation.decoding_options`.

        Raises:
            MomeError: an option names code to run, or its value is not possible.
        """
        refuse_code(given)
        return decoding_options(given, self.config.generation or {})

    @torch.no_grad()
    def generate(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        pixel_values_videos_mask: Tensor | None = None,
        rates: Rates | Sequence[Rates] | None = None,
        encoded: EncodedClips | None = None,
        prepared: LanguageInputs | None = None,
        most_tokens: Sequence[int] | None = None,
        active_experts: int | None = None,
        **generation: Any,
    ) -> Any:
        """Transcribe with Transformers' ``generate``: greedy decoding, beam search or sampling.

        Args:
            input_features, input_features_mask, pixel_values_videos, pixel_values_videos_mask, encoded,
            active_experts: as in :meth:`forward`.
            rates: rates of all clips, or B rates, one for each clip.
            prepared: the result of :meth:`prepare`, instead of inputs and rates; joint decoding by a CTC head needs
                ``encoded`` beside it.
            most_tokens: B numbers of tokens, the end token included, after which a clip's transcript ends even if the
                others go on. ``max_tokens_per_second`` is for those who know a clip's seconds, and ignored here.
            generation: options of ``GenerationMixin.generate`` (``max_new_tokens``, ``num_beams``, …), combined with
                the model's own by :meth:`generation_options`. Without ``max_new_tokens``, Transformers stops after
                20 tokens.

        Returns:
            ``(B, S)`` int64 ids of the transcripts alone, or Transformers' output object with
            ``return_dict_in_generate=True``.
        """
        options = self.generation_options(**generation)
        if prepared is None:
            if rates is None:
                raise ValueError("generate needs rates")
            if encoded is None:
                encoded = self.encode(
                    input_features, input_features_mask, pixel_values_videos, pixel_values_videos_mask
                )
            features = encoded.audio if encoded.audio is not None else encoded.video
            size = 0 if features is None else len(features.frames)
            prepared = self.prepare(encoded, [rates] * size if isinstance(rates, Rates) else rates)
        options.pop(PER_SECOND, None)
        given = options.get("eos_token_id", self.language_model.generation_config.eos_token_id)
        ends = given if isinstance(given, list) else [] if given is None else [given]
        processors = list(options.get("logits_processor", []))
        if weight := options.pop(CTC_WEIGHT, 0):
            processors.append(self._joint_scores(encoded, prepared.rates, ends, weight))
        if most_tokens is not None:
            processors.append(TokenLimit(most_tokens, ends[0]))
        if processors:
            options["logits_processor"] = processors
        if not self.config.adapter_groups and active_experts is None:
            return generate(self.language_model, prepared, options)
        with use_context(self.language_model, self.adapter_context(prepared.rates, active_experts=active_experts)):
            return generate(self.language_model, prepared, options)

    def _joint_scores(
        self, encoded: EncodedClips | None, rates: Sequence[Rates], ends: Sequence[int], weight: float
    ) -> JointScores:
        """What mixes the CTC head's scores with the language model's; raises :class:`MomeError` without a head."""
        if self.ctc is None:
            raise MomeError(f"{CTC_WEIGHT} = {weight:g} is not possible: the model has no CTC head, leave it out")
        if encoded is None:
            raise ValueError("joint decoding needs the encoder features: give encoded beside prepared, or ctc_weight=0")
        frames = self.ctc(encoded.audio, encoded.video, rates, self.get_input_embeddings().weight)
        return JointScores(frames, self.ctc.alignment.tokens, ends, weight)

    def merge(self, which: str | Rates | None = None, parts: Collection[str] | None = None) -> Self:
        """Merge the LoRA into the weights of its backbone, which gives the same output without extra cost.

        The adapter is removed from the configuration. If a specific update was merged, ``config.only`` names its
        rates or task, and other rates are refused from then on. The backbone's own checkpoint does not have the
        update, so :meth:`save_pretrained` needs ``self_contained=True``.

        Args:
            which: the group whose specific update to merge, a pair of rates (``"4,2"``) or a task (``"asr"``);
                ``None`` if the language model's LoRA has no specific updates.
            parts: ``"language_model"``, ``"video_encoder"`` or both; by default all that have an adapter.

        Returns:
            The model itself.

        Raises:
            MomeError: there is no LoRA, or the adapter is MoME, which cannot be merged; the rate set does not have
                the rates; ``which`` is missing, superfluous or no group. The model is unchanged then.
        """
        options = {"language_model": "adapter", "video_encoder": "video_adapter"}
        parts = [parts] if isinstance(parts, str) else parts
        if parts is None:
            parts = [part for part, option in options.items() if getattr(self.config, option) is not None]
        lacking = [part for part in parts if getattr(self.config, options.get(part, ""), None) is None]
        if lacking or not parts:
            raise MomeError(f"there is no adapter to merge into the {' or the '.join(lacking or options)}")
        if which is not None and "language_model" not in parts:
            raise MomeError(f"'{which}' cannot be chosen: the video encoder's LoRA is the same for all rates")
        if "language_model" in parts:
            group = self._adapter_group(which)
            merge(self.language_model, group)
            if group is not None:
                self.config.only = str(self.config.adapter_groups[group])
        if self.video_encoder is not None and "video_encoder" in parts:
            merge(self.video_encoder)
        for part in parts:
            setattr(self.config, options[part], None)
        self.merged |= set(parts)
        return self

    def _adapter_group(self, which: str | Rates | None) -> int | None:
        """Index of the group for a pair of rates or a task; ``None`` if the adapter has no specific updates."""
        lora_modules(self.language_model)  # refuses adapters that cannot be merged
        groups = [str(group) for group in self.config.adapter_groups]
        if which is None and not groups:
            return None
        if which is not None and which not in TASKS:
            which = str(self.rate_set.check(Rates.parse(which)))
        if not groups:
            raise MomeError(f"'{which}' cannot be chosen: the adapter is the same for all rates, merge without it")
        if which not in groups:
            raise MomeError(
                f"the adapter has an update for each of {' '.join(groups)}: merge one of these, not {which!r}"
            )
        return groups.index(which)

    def train(self, mode: bool = True) -> MomeForSpeechRecognition:
        """Switch connector and adapters; all backbones stay in evaluation mode, trained ones too.

        The backbones' dropout stays off, and their batch norms keep their statistics, because those of a few padded
        clips would be worse. Modules that checkpoint activations do get ``training = mode``, without their
        submodules, because Transformers checkpoints in training mode only.
        """
        super().train(mode)
        for backbone in self.backbones():
            backbone.eval()
        for _, adapter in adapter_modules(self):
            adapter.train(mode)
        for module in self.language_model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = mode
        return self

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Checkpoint activations of the language model's layers, non-reentrant as the router's loss requires."""
        options = {**(activation_checkpointing_kwargs or {}), "use_reentrant": False}
        self.language_model.activation_checkpointing_enable(options, every_n_layers, offload)
        self.train(self.training)

    def activation_checkpointing_disable(self) -> None:
        """Undo :meth:`activation_checkpointing_enable`."""
        self.language_model.activation_checkpointing_disable()
        self.train(self.training)


def _keep_special_tokens(language_model: PreTrainedModel) -> None:
    """Drop a language model's generation settings, such as sampling for chat, except for the special tokens."""
    model = cast(Any, language_model)
    kept = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**check_decoding(kept, "the language model's generation_config.json"))
