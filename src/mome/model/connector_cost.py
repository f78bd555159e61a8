"""Operations and parameters of the connector, in the terms of :mod:`mome.model.cost`.

Shape notation: D width of an encoder, H width of the language model.
"""

from __future__ import annotations

from torch import nn

from mome.config import MomeConfig
from mome.connectors import Connector, MixtureConnector, RateProjectors, compressed_width, resampled_length
from mome.connectors.config import MixtureConfig, QFormerConfig, ResamplerConfig, SharedConfig
from mome.connectors.mixture import ProjectorExperts
from mome.connectors.qformer import query_count
from mome.rates import Rates


def transformer(positions: int, width: int, inner: int, layers: int) -> int:
    """Encoder layers: four projections, attention of all to all, two feed-forward products."""
    linear = 2 * positions * (4 * width * width + 2 * width * inner)
    return layers * (linear + 4 * positions * positions * width)


def connector_operations(
    config: MomeConfig, rates: Rates, audio_frames: int, video_frames: int, speech_rate: float = 1.0
) -> int:
    """Operations from one clip's encoder tokens to the language model's tokens; the speech rate is as in a Q-Former."""
    options = config.connector_config
    if isinstance(options, QFormerConfig):
        return _qformer(config, options, rates, audio_frames, video_frames, speech_rate)
    total = 0
    if rates.audio is not None:
        total += _one_side(config, config.audio_config.hidden_size, rates.audio, audio_frames)
    if rates.video is not None:
        total += _one_side(config, config.video_config.hidden_size, rates.video, video_frames)
    return total


def _one_side(config: MomeConfig, width: int, rate: float, frames: int) -> int:
    options, out = config.connector_config, config.text_config.hidden_size
    if isinstance(options, ResamplerConfig):
        queries = resampled_length(frames, rate, options.queries)
        # Projections of queries and their results, of the frames' keys and values, attention, the way out.
        return 4 * width * (queries + frames) * width + 4 * queries * frames * width + 2 * queries * width * out
    if isinstance(options, SharedConfig):  # it projects before it pools
        return frames * 2 * config.projector_hidden * (width + out)
    whole = int(rate)  # only a resampler takes others
    in_features = compressed_width(width, whole, config.compression)
    per_token = 2 * config.projector_hidden * (in_features + out)
    if isinstance(options, MixtureConfig):
        per_token = options.top_k * per_token + 2 * in_features * options.experts
    return frames // whole * per_token


def _qformer(
    config: MomeConfig, options: QFormerConfig, rates: Rates, audio_frames: int, video_frames: int, speech_rate: float
) -> int:
    """Early fusion, the Q-Former with cross-attention in each layer, and the projector."""
    audio, video = config.audio_config.hidden_size, config.video_config.hidden_size
    frames = video_frames if rates.video is not None else audio_frames // 2
    queries, width = query_count(options, frames, speech_rate), options.hidden
    total = 4 * frames * audio * audio  # the convolution runs on zeros where there is no audio
    if rates.audio is not None and options.speech_rate:
        total += _speech_rate(audio, frames)
    frames = int(frames * speech_rate)  # fast speech is stretched
    cross = 4 * queries * width * width + 4 * frames * (audio + video) * width + 4 * queries * frames * width
    total += transformer(queries, width, options.inner, options.layers) + options.layers * cross
    out = config.text_config.hidden_size
    middle = (width + out) // 2
    return total + 2 * queries * middle * (width + out)


def _speech_rate(width: int, frames: int, inner_width: int = 256, inner: int = 1024, layers: int = 2) -> int:
    """The predictor, on every fourth audio frame: its positional convolution, then its layers."""
    positions = 1 + -(-2 * frames // 4)
    convolution = 2 * (positions + 1) * inner_width * (inner_width // 16) * 128
    entry = 2 * (positions - 1) * width * inner_width
    return entry + convolution + transformer(positions, inner_width, inner, layers) + 2 * inner_width


def connector_parameters(connector: Connector) -> tuple[int, int]:
    """Parameters in all, and those that one token of a clip uses: of its rates, the largest where they differ."""
    total = active = _size(connector)
    for module in connector.modules():
        if isinstance(module, RateProjectors):
            sizes = [_size(projector) for projector in module]
            active -= sum(sizes) - max(sizes)
        elif isinstance(module, ProjectorExperts) and isinstance(connector, MixtureConnector):
            active -= _size(module) // len(module) * (len(module) - connector.top_k)
    return total, active


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
