"""What a transcription costs, from the configuration alone: operations and parameters, no weights.

A multiply-add counts as two operations, and as in PyTorch's FLOP counter only matrix products,
convolutions and attention count, padding and masked positions included. Shape notation: T positions, D width
of an encoder, H width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedConfig

from mome.adapters import AdapterConfig, MomeAdapterConfig, adapter_parameters, count_adapter_parameters
from mome.config import MomeConfig
from mome.encoders import AVHubertConfig, AVHubertModel
from mome.encoders.audio import audio_tokens
from mome.media import SAMPLE_RATE
from mome.model.audio_cost import audio_encoder_operations, avhubert_transformer
from mome.model.connector import count_tokens
from mome.model.connector_cost import connector_operations, connector_parameters
from mome.model.language_model import count_products
from mome.model.model import MomeForSpeechRecognition
from mome.rates import Rates


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


def encoder_frames(config: MomeConfig, seconds: float) -> tuple[int, int]:
    """Audio and video tokens that the encoders give for a clip of so many seconds; 0 without that encoder."""
    slack = 1e-6  # binary fractions: 1.16 * 25 is a little less than 29
    audio, video = config.audio_config, config.video_config
    return (
        0 if audio is None else audio_tokens(audio, int(seconds * SAMPLE_RATE + slack)),
        0 if video is None else int(seconds * AVHubertModel.tokens_per_second + slack),
    )


def inference_cost(
    config: MomeConfig,
    rates: Rates,
    audio_frames: int,
    video_frames: int,
    new_tokens: int,
    beams: int = 1,
    fed: int | None = None,
    speech_rate: float = 1.0,
) -> Cost:
    """Operations of transcribing one clip by itself.

    Beams are independent sequences from the first position on, as in Transformers' beam search, so the
    prefill is done once per beam.

    Args:
        config: the recogniser's.
        rates: what the clip is read at; a modality left out is not encoded.
        audio_frames: audio encoder tokens (see :func:`encoder_frames`).
        video_frames: video encoder tokens, 25 a second.
        new_tokens: transcript tokens generated, the end token included.
        beams: width of the beam search; 1 is greedy decoding.
        fed: tokens fed to the language model, where they are known better than from the clip's length.
        speech_rate: of the clip, where it is known (``LanguageInputs.speech_rates``); only MMS-LLaMA looks at it.
    """
    if fed is None:
        fed = count_tokens(config, rates, audio_frames, video_frames, speech_rate).total
    steps = max(new_tokens - 1, 0)  # the prefill gives the first new token
    audio = video = 0
    if rates.audio is not None:
        audio = audio_encoder_operations(config.audio_config, config.audio_context, audio_frames)
    if rates.video is not None:
        video = _avhubert(config.video_config, video_frames) + _video_adapter(config, video_frames)
    projectors = connector_operations(config, rates, audio_frames, video_frames, speech_rate)
    adapters = 0
    if config.adapter_config is not None:
        adapters = (fed + steps) * _adapter(config.adapter_config, config.text_config)
    prefill, decode = _language_model(config, fed, steps)
    return Cost(audio, video, projectors, beams * adapters, beams * prefill, beams * decode)


def _avhubert(config: AVHubertConfig, frames: int) -> int:
    """The video branch; without audio features the audio branch does not run."""
    base = config.resnet_width
    side = _halved(config.image_size)
    per_frame = 2 * side * side * base * 5 * 7 * 7
    side = _halved(side)
    channels = base
    for stage, out in enumerate((base, 2 * base, 4 * base, 8 * base)):
        if stage:
            side = _halved(side)
            per_frame += 2 * side * side * channels * out  # the shortcut
        per_frame += 2 * side * side * 9 * (channels * out + 3 * out * out)
        channels = out
    per_frame += 2 * channels * config.hidden_size
    return frames * per_frame + avhubert_transformer(config, frames)


def _video_adapter(config: MomeConfig, frames: int) -> int:
    adapter = config.video_adapter_config
    if adapter is None:
        return 0
    video, targets = config.video_config, len(adapter.targets)
    return frames * video.num_hidden_layers * targets * 4 * video.hidden_size * adapter.bottleneck


def _halved(side: int) -> int:
    """Output side of a stride-2 convolution or pooling with an odd kernel and half of it as padding."""
    return (side + 1) // 2


def _adapter(adapter: AdapterConfig, language_model: PreTrainedConfig) -> int:
    """Operations per token in all layers."""
    if not isinstance(adapter, MomeAdapterConfig):
        # A low-rank update has no biases, so every parameter is one multiply-add.
        return 2 * count_adapter_parameters(adapter, language_model).active
    width, layers = language_model.hidden_size, language_model.num_hidden_layers
    experts = adapter.routed_experts + adapter.shared_experts
    # All experts are computed; the gates weigh their output biases by one more product.
    return layers * 2 * width * (adapter.routed_experts + experts * (2 * adapter.bottleneck + 1))


def _language_model(config: MomeConfig, fed: int, steps: int) -> tuple[int, int]:
    """Prefill of ``fed`` tokens, and ``steps`` single tokens that follow."""
    text = config.text_config
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    queries = heads * head_dim
    products = count_products(text)
    per_token = 2 * products.per_token
    # In one layer: a query position with a key position, and a key position by itself.
    per_pair, per_key = 4 * queries, 2 * products.per_position
    head = 2 * (products.head + config.added_tokens * text.hidden_size)  # at the last position only
    prefill = fed * per_token + text.num_hidden_layers * fed * (fed * per_pair + per_key) + head
    # A step meets what the cache has kept of the positions so far: a layer with a sliding window drops those outside.
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=text).layers]
    lengths = range(fed + 1, fed + steps + 1)
    seen = sum(length if window is None else min(length, window) for window in windows for length in lengths)
    return prefill, steps * (per_token + head) + seen * (per_pair + per_key)


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
        count = count_adapter_parameters(config.adapter_config, config.text_config)
        adapter_total, adapter_active = count.total, count.active
    total, active = connector_parameters(model.connector)
    if model.video_encoder is not None:
        adapter_total += sum(parameter.numel() for _, parameter in adapter_parameters(model.video_encoder))
    return ParameterCounts(adapter_total, adapter_active, total, active, frozen)
