"""Encoder features to language-model tokens: compression at a chosen rate, then projection.

All modules of this folder are imported, and so the connectors in them are registered.
"""

import importlib
import pkgutil

from mome.connectors.base import (
    CONNECTORS,
    Connected,
    Connector,
    ConnectorConfig,
    SeparateConnector,
    Surroundings,
    TokenCounts,
    build_connector,
    connector_config,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CONNECTORS",
    "Connected",
    "Connector",
    "ConnectorConfig",
    "SeparateConnector",
    "Surroundings",
    "TokenCounts",
    "build_connector",
    "connector_config",
]
