"""Encoder tokens to language-model tokens: compression at a chosen rate, then a rate-specific projector."""

from mome.connectors.base import Connected, Connector, SeparateConnector
from mome.connectors.mixture import MixtureConnector
from mome.connectors.pooling import (
    METHODS,
    CompressionMethod,
    average_pool,
    compress,
    compressed_width,
    pooled_length,
    stack,
)
from mome.connectors.projectors import Projector, RateProjectors
from mome.connectors.resampler import QueryResampler, resampled_length
from mome.connectors.shared import SharedProjector

__all__ = [
    "METHODS",
    "CompressionMethod",
    "Connected",
    "Connector",
    "MixtureConnector",
    "Projector",
    "QueryResampler",
    "RateProjectors",
    "SeparateConnector",
    "SharedProjector",
    "average_pool",
    "compress",
    "compressed_width",
    "pooled_length",
    "resampled_length",
    "stack",
]
