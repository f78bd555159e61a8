"""STAND-IN (another branch has the real one)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mome.clip import FRAME_RATE, SAMPLE_RATE
from mome.media.reading import load_clip


class Recording:
    def __init__(
        self,
        path: str | Path,
        *,
        audio: bool = True,
        video: bool = True,
        audio_track: int | None = None,
        detector: Any = None,
        face: str = "largest",
    ):
        self.clip = load_clip(path, audio=audio, video=video, audio_track=audio_track, detector=detector)
        self.seconds = self.clip.seconds
        self.has_sound = self.clip.audio is not None
        self.has_mouth = self.clip.mouth is not None
        self.warnings = list(self.clip.warnings)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def sound(self) -> Iterator[np.ndarray]:
        assert self.clip.audio is not None
        for start in range(0, len(self.clip.audio), 30 * SAMPLE_RATE):
            yield self.clip.audio[start : start + 30 * SAMPLE_RATE]

    def mouth(self, start: float, end: float) -> np.ndarray | None:
        if self.clip.mouth is None:
            return None
        part = self.clip.mouth[round(start * FRAME_RATE) : round(end * FRAME_RATE)]
        return part if len(part) else None
