"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """What a server counts; ``/metrics`` shows it."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("mome_requests", "Transcription requests by HTTP status.", ["status"], registry=own)
        self.seconds = Histogram(
            "mome_request_seconds", "Seconds from the request to the end of a reply.", buckets=_SECONDS, registry=own
        )
        self.rates = Counter("mome_recordings", "Recordings transcribed, by rates.", ["rates"], registry=own)
        self.speech = Counter("mome_speech_seconds", "Seconds of the parts transcribed.", registry=own)
        self.batches = Histogram(
            "mome_batch_parts", "Parts transcribed together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.model_seconds = Counter("mome_model_seconds", "Seconds that the model worked.", registry=own)
        self.ends = Counter("mome_process_ends", "Processes that ended unasked.", ["kind"], registry=own)
        for kind in ("model", "reader"):
            self.ends.labels(kind)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """Show a value as it is when asked for."""
        Gauge(f"mome_{name}", help, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All figures in Prometheus's format."""
        return generate_latest(self._registry)
