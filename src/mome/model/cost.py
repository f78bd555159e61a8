"""Operations of a transcription and parameters of a model, from the configuration alone, without weights.

Each part of the model runs on the meta device at a few small lengths while PyTorch's formulas count
(:mod:`mome.operations`); the numbers for other lengths follow from these. This works for any backbone. Only the
number of positions that attention sees while decoding is computed by hand.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

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
from mome.config.generation import CTC_WEIGHT
from mome.connectors import Connector, ConnectorConfig, Surroundings, TokenCounts, build_connector
from mome.connectors.base import parameters
from mome.encoders import AudioContext, audio_encoder
from mome.features import Features
from mome.model.model import MomeForSpeechRecognition
from mome.model.sequence import count_tokens, encoder_frames
from mome.model.shared_prefix import shares_prefix
from mome.operations import Growth, count_operations, meta
from mome.rates import Rates
from mome.text.transcript import Tokens

_FEW = 4  # positions that a part is run with; fewer than any attention window
_LENGTHS = (8, 16, 24)  # frames that an encoder is run with


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of one clip's transcription.

    Attributes:
        audio_encoder: those of the audio encoder.
        video_encoder: those of the video encoder, its adapter included, and the sound if it reads that too.
        projectors: those of the connector, and of the CTC head where it decodes too.
        adapters: those of the language model's adapters, in prefill and decode.
        prefill: the language model's pass over the fed tokens, without adapters; one for each beam where beams do not
            share it.
        decode: the language model's steps after the first new token, without adapters.
    """

    audio_encoder: int
    video_encoder: int
    projectors: int
    adapters: int
    prefill: int
    decode: int

    @property
    def encoders(self) -> int:
        """Those of both encoders, which do not depend on the rates."""
        return self.audio_encoder + self.video_encoder

    @property
    def total(self) -> int:
        """All operations."""
        return self.encoders + self.projectors + self.adapters + self.prefill + self.decode

    @property
    def tflops(self) -> float:
        """All operations in units of 10^12."""
        return self.total / 1e12


def inference_cost(
    config: MomeConfig,
    rates: Rates,
    audio_frames: int,
    video_frames: int,
    new_tokens: int,
    beams: int = 1,
    fed: Tokens | None = None,
    top_k: int | None = None,
    ctc: bool = False,
) -> Cost:
    """Operations of transcribing one clip by itself.

    Args:
        config: the model's configuration.
        rates: the clip's rates; a modality without a rate is not encoded.
        audio_frames: frames that the audio encoder gives (see :func:`~mome.model.sequence.encoder_frames`).
        video_frames: frames that the video encoder gives, 25 a second.
        new_tokens: transcript tokens generated, the end token included.
        beams: width of the beam search; 1 is greedy decoding.
        fed: tokens fed to the language model, if known; computed from the clip's length otherwise.
        top_k: count this number of routed experts for a token, as the papers do. By default all are counted, because
            all are computed (:class:`~mome.adapters.experts.ExpertBank`).
        ctc: whether the CTC head decodes too.

    Raises:
        MomeError: the adapter cannot have ``top_k`` active experts.
    """
    fed = fed or count_tokens(config, rates, audio_frames, video_frames)
    steps = max(new_tokens - 1, 0)  # the prefill gives the first new token
    audio = video = 0
    joint = config.connector_config.joint
    if rates.audio is not None and not joint:
        audio = _audio_encoder(_settings(config.audio_config), config.audio_context)(audio_frames)
    if rates.video is not None:
        video = _video_encoder(_settings(config.video_config), config.video_adapter_config, joint)(video_frames)
    tokens = TokenCounts(fed.audio, fed.video, fed.fused)
    projectors = _connector_operations(
        config.connector_config, config.surroundings, rates, audio_frames, video_frames, tokens
    )
    if ctc:
        projectors += _head_operations(config, rates, audio_frames, video_frames, beams * new_tokens)
    settings = _settings(config.text_config)
    language_model = _language_model(settings)
    head = language_model.head + 2 * config.added_tokens * config.text_config.hidden_size  # at the last position only
    prefill = language_model.reading(fed.total) + head
    attended = _attended_positions(config.text_config, fed.total, steps)
    decode = steps * (language_model.step + head) + round(attended * language_model.position)
    adapter = _adapter(settings, config.adapter_config)
    if top_k is not None:
        adapter -= config.check_top_k(top_k).idle_operations(config.text_config, top_k)
    # Masked attention to what other beams wrote is left out; it is as little as transcripts are short.
    readings = 1 if shares_prefix(config.text_config) else beams
    adapters = (readings * fed.total + beams * steps) * adapter
    return Cost(audio, video, projectors, adapters, readings * prefill, beams * decode)


def _settings(config: PreTrainedConfig) -> str:
    """A configuration as text, which caches can have as a key."""
    return config.to_json_string(use_diff=False)


def _config(settings: str) -> Any:
    """The configuration of such a text, a new object that a model may change."""
    return AutoConfig.for_model(**json.loads(settings))


def _count_shallow(settings: str, count: Callable[[Any], list[int]]) -> list[int]:
    """Counts for a model of this configuration, told from the same model with one layer and with two.

    The layers of most models cost the same, and running two is quicker than running all. A configuration that lists
    its layers may have layers that differ; it is counted as it is.

    Args:
        settings: the configuration.
        count: gives the counts for a configuration; they must be those of the layers and of parts that do not depend
            on the depth.
    """
    config = _config(settings)
    depth = getattr(config, "num_hidden_layers", 0)
    if depth < 3 or any(isinstance(value, list) and len(value) == depth for value in config.to_dict().values()):
        return count(config)
    shallow = []
    for layers in (1, 2):
        config = _config(settings)
        config.num_hidden_layers = layers
        shallow.append(count(config))
    return [first + (depth - 1) * (second - first) for first, second in zip(*shallow, strict=True)]


@lru_cache(maxsize=64)
def _audio_encoder(settings: str, context: AudioContext) -> Growth:
    def count(config: Any) -> list[int]:
        kind = audio_encoder(config)
        with torch.device("meta"):
            encoder = kind(kind.new(config), context).eval()
        return [count_operations(partial(encoder, encoder.example(frames))) for frames in _LENGTHS]

    return Growth.through(_LENGTHS, _count_shallow(settings, count))


@lru_cache(maxsize=64)
def _video_encoder(settings: str, adapter: LoraAdapterConfig | None, joint: bool) -> Growth:
    def count(config: Any) -> list[int]:
        with torch.device("meta"):
            encoder: Any = AutoModel.from_config(config, trust_remote_code=False).eval()
            if adapter is not None:
                attach_lora(encoder.encoder.layers, adapter)
        counts = []
        for frames in _LENGTHS:
            inputs: list[Any] = [meta(1, frames, config.image_size, config.image_size)]
            inputs += [None, meta(1, frames, config.audio_feature_size)] if joint else []
            counts.append(count_operations(partial(encoder, *inputs)))
        return counts

    return Growth.through(_LENGTHS, _count_shallow(settings, count))


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
    if rates.audio is not None and around.audio_width is not None:
        audio = Features(meta(1, audio_frames, around.audio_width), torch.tensor([audio_frames]))
    if rates.video is not None and around.video_width is not None:
        video = Features(meta(1, video_frames, around.video_width), torch.tensor([video_frames]))
    return _connector(options, around).operations(audio, video, rates, tokens)


def _head_operations(config: MomeConfig, rates: Rates, audio_frames: int, video_frames: int, written: int) -> int:
    """Those of the CTC head: its frames, their scores, and the scores of what follows, for each token ``written``."""
    options = config.ctc_config
    own = None if options is None else options.heard(rates)
    if options is None or own is None:
        return 0
    counts = options.connector_config.tokens(own, audio_frames, video_frames)
    frames = counts.fused or counts.audio or counts.video
    around = options.surroundings(config.surroundings)
    made = _connector_operations(options.connector_config, around, own, audio_frames, video_frames, counts)
    return made + 2 * frames * options.tokens * int(config.text_config.hidden_size + written)


@dataclass(frozen=True)
class _LanguageModel:
    """Operations of a language model without adapters.

    Attributes:
        reading: of all layers, for a number of tokens at once.
        step: of all layers, for one token that follows the cached ones, without its attention to positions.
        position: of one layer, for each position that this token attends to, itself included.
        head: of the output head, for one token.
    """

    reading: Growth
    step: int
    position: float
    head: int


@lru_cache(maxsize=64)
def _language_model(settings: str) -> _LanguageModel:
    def count(config: Any) -> list[int]:
        model, cache = _meta_language_model(config), DynamicCache(config=config)
        few, following = _run(model, _FEW, cache), _run(model, 1, cache)
        return [few, following, _run(model, 2 * _FEW, DynamicCache(config=config))]

    few, following, twice = _count_shallow(settings, count)
    quadratic = (twice - 2 * few) / (2 * _FEW**2)
    linear = few / _FEW - _FEW * quadratic
    # A step attends to _FEW + 1 positions. Its operations for each of them are attention, which is the quadratic part,
    # and in some models (Doge) a product with that position alone, which reading computes once for each token.
    product = (following - linear - (_FEW + 1) * quadratic) / _FEW
    config = _config(settings)
    head = _meta_language_model(config).get_output_embeddings()
    return _LanguageModel(
        Growth(0, linear, quadratic),
        round(linear - product),
        (quadratic + product) / config.num_hidden_layers,
        2 * head.weight.numel(),
    )


@lru_cache(maxsize=64)
def _adapter(settings: str, adapter: AdapterConfig | None) -> int:
    """Operations of an adapter for one token."""
    if adapter is None:
        return 0

    def count(config: Any) -> list[int]:
        model = _meta_language_model(config)
        plain = _run(model, _FEW, DynamicCache(config=config))
        with torch.device("meta"):
            attach(model, adapter)
        context = AdapterContext(group=0 if adapter.groups else None)
        return [_run(model, _FEW, DynamicCache(config=config), adapter_context=context) - plain]

    (added,) = _count_shallow(settings, count)
    return added // _FEW


def _run(model: Any, tokens: int, cache: DynamicCache, **options: Any) -> int:
    """Operations of a language model's layers for ``tokens`` that follow those in the cache."""
    embeddings = meta(1, tokens, model.get_input_embeddings().embedding_dim)
    return count_operations(lambda: model.get_decoder()(inputs_embeds=embeddings, past_key_values=cache, **options))


def _meta_language_model(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        # Other attention implementations read the mask's values, which the meta device does not have.
        options = {"dtype": torch.get_default_dtype(), "attn_implementation": "eager"}
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options).eval()


def _attended_positions(config: PreTrainedConfig, fed: int, steps: int) -> int:
    """Positions that ``steps`` steps after ``fed`` tokens attend to, summed over steps and layers.

    A layer with a sliding window attends to no position outside it.
    """
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    windows = windows or [None] * config.num_hidden_layers
    lengths = range(fed + 1, fed + steps + 1)
    return sum(length if window is None else min(length, window) for window in windows for length in lengths)


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters.

    Attributes:
        adapter_total: of the adapters of language model and video encoder.
        adapter_active: those that one token of the language model uses.
        projectors_total: of the connector.
        projectors_active: those that one pair of rates uses, the largest number if pairs differ.
        frozen: those of encoders and language model that are not trained.
    """

    adapter_total: int
    adapter_active: int
    projectors_total: int
    projectors_active: int
    frozen: int


def parameter_counts(config: MomeConfig) -> ParameterCounts:
    """Count the parameters of a configuration's model without memory for its weights."""
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


def cost_report(config: MomeConfig, seconds: float, new_tokens: int = 1, beams: int = 1) -> dict[str, Any]:
    """Parameters of a model, and tokens and operations of a clip at every rate, as ``mome inspect --json`` prints them.

    Args:
        config: the model's configuration.
        seconds: length of the clip.
        new_tokens: transcript tokens generated, the end token included.
        beams: width of the beam search.

    Returns:
        ``parameters`` (:class:`ParameterCounts`), ``cost`` with a row for each of the model's rates, and
        ``uncompressed`` with a row for each task at rate 1, which the papers compare with.
    """
    frames = encoder_frames(config, seconds)

    def row(config: MomeConfig, rates: Rates) -> dict[str, Any]:
        joint = bool((config.generation or {}).get(CTC_WEIGHT))
        cost = inference_cost(config, rates, *frames, new_tokens=new_tokens, beams=beams, ctc=joint)
        return {
            "rates": str(rates),
            "task": rates.task,
            "tokens": count_tokens(config, rates, *frames).total,
            "tflops": cost.tflops,
            "parts": {name: operations / 1e12 for name, operations in asdict(cost).items()},
        }

    plain = copy.deepcopy(config)  # one projector at rate 1 for each modality
    plain.connector = config.connector if config.connector_config.joint else None
    plain.compression, plain.only = "average", None
    plain.audio_rates, plain.video_rates = config.audio_rates and [1], config.video_rates and [1]
    return {
        "parameters": asdict(parameter_counts(config)),
        "cost": [row(config, rates) for rates in config.rate_set.rates()],
        "uncompressed": [row(plain, rates) for rates in plain.rate_set.rates()],
    }
