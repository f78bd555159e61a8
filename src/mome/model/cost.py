"""What a transcription costs, from the configuration alone: operations and parameters, no weights.

Operations are those of :mod:`mome.operations`: a part of the model is run on the meta device at a few small lengths,
and what grows with the length is told from that. So any backbone is counted, and nothing is derived by hand but which
cached positions a language model's attention still sees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedConfig

from mome.adapters import (
    AdapterConfig,
    AdapterContext,
    LoraAdapterConfig,
    adapter_parameters,
    attach,
    attach_lora,
)
from mome.config import MomeConfig
from mome.connectors import Connector, ConnectorConfig, Surroundings, TokenCounts, build_connector
from mome.connectors.base import parameters
from mome.encoders import AudioContext, audio_encoder
from mome.features import Features
from mome.model.model import MomeForSpeechRecognition
from mome.model.sequence import count_tokens
from mome.operations import Growth, count_operations, meta
from mome.rates import Rates
from mome.text.transcript import Tokens

_FEW = 4  # positions that a part is run with; fewer than any attention window


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of one clip's transcription.

    ``video_encoder`` includes the adapter in it.
    ``prefill`` and ``decode`` are those of the frozen language model: its pass over the fed tokens, and its
    steps after the first new token. ``adapters`` are its adapters' in both.
    """

    audio_encoder: int
    video_encoder: int
    projectors: int
    adapters: int
    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.audio_encoder + self.video_encoder + self.projectors + self.adapters + self.prefill + self.decode

    @property
    def tflops(self) -> float:
        """All of it in units of 10^12."""
        return self.total / 1e12


def inference_cost(
    config: MomeConfig,
    rates: Rates,
    audio_frames: int,
    video_frames: int,
    new_tokens: int,
    beams: int = 1,
    fed: Tokens | None = None,
) -> Cost:
    """Operations of transcribing one clip by itself.

    Args:
        config: the model.
        rates: chosen for the clip; a modality left out is not encoded.
        audio_frames: audio encoder tokens (see :func:`~mome.model.sequence.encoder_frames`).
        video_frames: video encoder tokens, 25 a second.
        new_tokens: transcript tokens generated, the end token included.
        beams: width of the beam search; 1 is greedy decoding.
        fed: tokens fed to the language model, where they are known better than from the clip's length.
    """
    fed = fed or count_tokens(config, rates, audio_frames, video_frames)
    steps = max(new_tokens - 1, 0)  # the prefill gives the first new token
    audio = video = 0
    if rates.audio is not None:
        audio = _audio_encoder(_settings(config.audio_config), config.audio_context)(audio_frames)
    if rates.video is not None:
        video = _video_encoder(_settings(config.video_config), config.video_adapter_config)(video_frames)
    made = TokenCounts(fed.audio, fed.video, fed.fused)
    projectors = _connector_operations(
        config.connector_config, config.surroundings, rates, audio_frames, video_frames, made
    )
    settings = _settings(config.text_config)
    language_model = _language_model(settings)
    head = language_model.head + 2 * config.added_tokens * config.text_config.hidden_size  # at the last position only
    prefill = language_model.reading(fed.total) + head
    seen = _seen(config.text_config, fed.total, steps)
    decode = steps * (language_model.step + head) + round(seen * language_model.position)
    adapters = (fed.total + steps) * _adapter(settings, config.adapter_config)
    return Cost(audio, video, projectors, beams * adapters, beams * prefill, beams * decode)


def _settings(config: PreTrainedConfig) -> str:
    return cast(str, config.to_json_string(use_diff=False))


def _config(settings: str) -> Any:
    return AutoConfig.for_model(**json.loads(settings))


@lru_cache(maxsize=64)
def _audio_encoder(settings: str, context: AudioContext) -> Growth:
    config = _config(settings)
    kind = audio_encoder(config)
    with torch.device("meta"):
        encoder = kind(kind.new(config), context).eval()
    return Growth.of(lambda tokens: count_operations(lambda: encoder(encoder.example(tokens))), _FEW)


@lru_cache(maxsize=64)
def _video_encoder(settings: str, adapter: LoraAdapterConfig | None) -> Growth:
    config = _config(settings)
    with torch.device("meta"):
        encoder: Any = AutoModel.from_config(config, trust_remote_code=False).eval()
        if adapter is not None:
            attach_lora(encoder.encoder.layers, adapter)
    side = config.image_size
    return Growth.of(lambda frames: count_operations(lambda: encoder(meta(1, frames, side, side))), _FEW)


@lru_cache(maxsize=64)
def _connector(options: ConnectorConfig, around: Surroundings) -> Connector:
    with torch.device("meta"):
        return build_connector(options, around).eval()


@lru_cache(maxsize=4096)
def _connector_operations(
    options: ConnectorConfig,
    around: Surroundings,
    rates: Rates,
    audio_frames: int,
    video_frames: int,
    tokens: TokenCounts,
) -> int:
    audio = video = None
    if rates.audio is not None and around.audio_features is not None:
        audio = Features(meta(1, audio_frames, around.audio_features), torch.tensor([audio_frames]))
    if rates.video is not None and around.video_features is not None:
        video = Features(meta(1, video_frames, around.video_features), torch.tensor([video_frames]))
    return _connector(options, around).operations(audio, video, rates, tokens)


@dataclass(frozen=True)
class _LanguageModel:
    """Operations of a language model without adapters.

    Attributes:
        reading: of its layers, for so many tokens at once.
        step: of its layers, for one token that follows, what it sees of the others aside.
        position: of one layer, for each position that such a token sees, itself included.
        head: of the output head, for one token.
    """

    reading: Growth
    step: int
    position: float
    head: int


@lru_cache(maxsize=64)
def _language_model(settings: str) -> _LanguageModel:
    config, model = _meta_language_model(settings)
    cache = DynamicCache(config=config)
    few, following = _run(model, _FEW, cache), _run(model, 1, cache)
    twice = _run(model, 2 * _FEW, DynamicCache(config=config))
    quadratic = (twice - 2 * few) / (2 * _FEW**2)
    linear = few / _FEW - _FEW * quadratic
    # A step sees _FEW + 1 positions. What it does at each of them is attention, whose share the quadratic tells, and
    # in some models a product of the position by itself (Doge), which reading does once for each token.
    product = (following - linear - (_FEW + 1) * quadratic) / _FEW
    head = model.get_output_embeddings()
    return _LanguageModel(
        Growth(0, linear, quadratic),
        round(linear - product),
        (quadratic + product) / config.num_hidden_layers,
        2 * head.weight.numel(),
    )


@lru_cache(maxsize=64)
def _adapter(settings: str, adapter: AdapterConfig | None) -> int:
    """Operations of an adapter for each token."""
    if adapter is None:
        return 0
    config, model = _meta_language_model(settings)
    plain = _run(model, _FEW, DynamicCache(config=config))
    with torch.device("meta"):
        attach(model, adapter)
    context = AdapterContext(group=0 if adapter.groups else None)
    return (_run(model, _FEW, DynamicCache(config=config), adapter_context=context) - plain) // _FEW


def _run(model: Any, tokens: int, cache: DynamicCache, **options: Any) -> int:
    """Operations of the layers for tokens that follow those in the cache."""
    embeddings = meta(1, tokens, model.get_input_embeddings().embedding_dim)
    return count_operations(lambda: model.get_decoder()(inputs_embeds=embeddings, past_key_values=cache, **options))


def _meta_language_model(settings: str) -> tuple[PreTrainedConfig, Any]:
    config = _config(settings)
    with torch.device("meta"):
        # Other attentions look whether a mask hides anything, which on the meta device cannot be seen.
        options = {"dtype": torch.get_default_dtype(), "attn_implementation": "eager"}
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)
    return config, model.eval()


def _seen(config: PreTrainedConfig, fed: int, steps: int) -> int:
    """Positions that the steps after ``fed`` tokens attend to, in all layers.

    A layer with a sliding window keeps no positions outside it.
    """
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    windows = windows or [None] * config.num_hidden_layers
    lengths = range(fed + 1, fed + steps + 1)
    return sum(length if window is None else min(length, window) for window in windows for length in lengths)


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters.

    ``adapter_active`` are those one token uses; ``projectors_active`` those one pair of rates uses, the
    largest where they differ; ``frozen`` are those of the encoders and the language model that are not trained.
    ``adapter_total`` includes the video encoder's adapter, of which a token of the language model uses nothing.
    """

    adapter_total: int
    adapter_active: int
    projectors_total: int
    projectors_active: int
    frozen: int


def parameter_counts(config: MomeConfig) -> ParameterCounts:
    """Count the parameters of the model that ``config`` describes, without making its weights."""
    with torch.device("meta"):
        model = MomeForSpeechRecognition(config)
    frozen = sum(p.numel() for part in model.backbones() for p in part.parameters() if not p.requires_grad)
    adapter_total = adapter_active = 0
    if config.adapter_config is not None:
        count = config.adapter_config.count(config.text_config)
        adapter_total, adapter_active = count.total, count.active
    if isinstance(model.video_encoder, nn.Module):
        adapter_total += sum(parameter.numel() for _, parameter in adapter_parameters(model.video_encoder))
    connector = model.connector
    return ParameterCounts(adapter_total, adapter_active, parameters(connector), connector.active_parameters(), frozen)
