"""A clip: sound and mouth video of one recording on one clock, in the form that all models read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
"""Samples of sound a second."""
FRAME_RATE = 25
"""Frames of the mouth video a second."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
MOUTH_SIZE = 96
"""Height and width of a frame in pixels."""
LARGEST_SNR = 100.0
"""Decibels, of either sign: beyond it, speech or noise is below the other's float32 resolution."""


@dataclass(frozen=True)
class Clip:
    """Sound and mouth video of one file, both from t = 0 on; None if the file lacks it or it was not asked for."""

    audio: np.ndarray | None
    """(samples,) float32, 16 kHz mono in [-1, 1]."""
    mouth: np.ndarray | None
    """(frames, 96, 96) uint8 grey at 25 fps."""
    seconds: float
    """Length of the longer of both, see :func:`length`."""
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    """One line each, to be shown to the user."""


def length(audio: np.ndarray | None, mouth: np.ndarray | None) -> float:
    """Seconds of the longer of sound ``(samples,)`` and mouth ``(frames, …)``; None counts as 0."""
    return max(0.0 if audio is None else len(audio) / SAMPLE_RATE, 0.0 if mouth is None else len(mouth) / FRAME_RATE)
