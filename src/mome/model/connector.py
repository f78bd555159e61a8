"""The connector that a configuration describes, its auxiliary losses' weights and the tokens it makes."""

from __future__ import annotations

from torch import nn

from mome.config import MomeConfig
from mome.connectors import MixtureConnector, QueryResampler, RateProjectors, SharedProjector, resampled_length
from mome.connectors.base import Connector, SeparateConnector
from mome.connectors.config import MixtureConfig, ProjectorsConfig, QFormerConfig, ResamplerConfig, SharedConfig
from mome.connectors.qformer import QFormerConnector, query_count
from mome.errors import MomeError
from mome.rates import Rates
from mome.text.transcript import Tokens


def build_connector(config: MomeConfig, audio_width: int | None, video_width: int | None, width: int) -> Connector:
    """Make the connector, with new weights.

    Args:
        config: the recogniser's.
        audio_width, video_width: of the encoders' tokens; ``None`` without that encoder.
        width: of the language model.

    Raises:
        MomeError: the connector does not do what the rest of the configuration asks for.
    """
    options = config.connector_config
    if config.compression != "average" and not isinstance(options, MixtureConfig | ProjectorsConfig):
        raise MomeError(f"compression={config.compression} is not possible with this connector: it averages or queries")
    if isinstance(options, MixtureConfig):
        return MixtureConnector(
            config.audio_rates,
            config.video_rates,
            audio_width,
            video_width,
            width,
            config.projector_hidden,
            experts=options.experts,
            top_k=options.top_k,
            sharing=options.sharing,
            method=config.compression,
            norm=config.projector_norm,
        )
    if isinstance(options, QFormerConfig):
        if audio_width is None or video_width is None:
            raise MomeError("the connector qformer fuses audio and video: give both encoders")
        return QFormerConnector(audio_width, video_width, width, options)
    sides: list[nn.Module | None] = []
    for rates, in_features in ((config.audio_rates, audio_width), (config.video_rates, video_width)):
        if in_features is None:
            sides.append(None)
        elif isinstance(options, SharedConfig):
            sides.append(
                SharedProjector(rates, in_features, config.projector_hidden, width, norm=config.projector_norm)
            )
        elif isinstance(options, ResamplerConfig):
            sides.append(QueryResampler(in_features, width, queries=options.queries, heads=options.heads))
        else:
            assert isinstance(options, ProjectorsConfig)
            sides.append(
                RateProjectors(
                    rates, in_features, config.projector_hidden, width, config.compression, config.projector_norm
                )
            )
    return SeparateConnector(*sides)


def loss_weights(config: MomeConfig) -> dict[str, float]:
    """Factors of the connector's auxiliary losses by name."""
    options = config.connector_config
    if isinstance(options, MixtureConfig):
        return {"balance": options.balance_weight, "z": options.z_weight}
    if isinstance(options, QFormerConfig) and options.speech_rate:
        return {"speech_rate": 1.0}
    return {}


def count_tokens(
    config: MomeConfig, rates: Rates, audio_frames: int, video_frames: int, speech_rate: float = 1.0
) -> Tokens:
    """Tokens that a clip of so many encoder tokens costs at ``rates``.

    Where the number depends on the speech rate (MMS-LLaMA), by default that of normally fast speech.
    """
    options = config.connector_config
    text = len(config.start_ids) + len(config.text_ids(rates.task))
    made = {}
    for modality, rate, frames in (("audio", rates.audio, audio_frames), ("video", rates.video, video_frames)):
        if rate is None:
            made[modality] = 0
        elif isinstance(options, ResamplerConfig):
            made[modality] = resampled_length(frames, rate, options.queries)
        else:
            made[modality] = frames // int(rate)
        text += 0 if rate is None or isinstance(options, QFormerConfig) else len(config.markers(modality))
    if isinstance(options, QFormerConfig):
        frames = video_frames if rates.video is not None else audio_frames // 2
        return Tokens(0, 0, text, query_count(options, frames, speech_rate))
    return Tokens(made["audio"], made["video"], text)
