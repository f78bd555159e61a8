"""Faults of pictures and sound, to measure how a recogniser degrades: a frozen picture, late lips, silence.
No fault changes the lengths of a clip or its arrays in place. What a fault draws depends on the seed and the clip's id
only. A clip without the modality is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np

from mome.clip import FRAME_RATE, MOUTH_SIZE, Clip
from mome.errors import MomeError
from mome.media.noise import clip_rng
from mome.rates import Rates

_FRAME_MS = 1000 // FRAME_RATE


def frozen(mouth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hold one frame for the last ``share`` of the time; 1 holds the first frame throughout."""
    last = max(len(mouth) - round(share * len(mouth)) - 1, 0)
    return mouth[np.minimum(np.arange(len(mouth)), last)]


def dropped(mouth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Lose ``share`` of the frames at random, the first excepted; instead of each, the one before is shown again."""
    places = np.arange(len(mouth))
    lost = 1 + rng.permutation(len(mouth) - 1)[: round(share * len(mouth))]
    places[lost] = 0
    return mouth[np.maximum.accumulate(places)]


def occluded(mouth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cover the middle with a square of ``share`` of the picture's height, in the clip's mean grey; 1 covers it all."""
    covered, side = mouth.copy(), round(share * MOUTH_SIZE)
    start = (MOUTH_SIZE - side) // 2
    covered[:, start : start + side, start : start + side] = round(float(mouth.mean()))
    return covered


def blurred(mouth: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blur each frame with a Gaussian of ``sigma`` pixels."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in mouth])


def shifted(mouth: np.ndarray, milliseconds: float, rng: np.random.Generator) -> np.ndarray:
    """Move the picture against the sound: late if ``milliseconds`` is positive, early if it is negative.

    At 80 the frame of 0 ms is seen at 80 ms; the first frame fills the start, or the last one the end.
    """
    places = np.arange(len(mouth)) - round(milliseconds / _FRAME_MS)
    return mouth[np.clip(places, 0, len(mouth) - 1)]


def silent(audio: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Replace a stretch of ``share`` of the sound, at a random place, with zeros; 1 silences it all."""
    broken, width = audio.copy(), round(share * len(audio))
    start = int(rng.integers(len(audio) - width + 1))
    broken[start : start + width] = 0
    return broken


class _Kind(NamedTuple):
    """What a fault does to a modality, how its amount is told, and the least and the largest amount."""

    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    modality: Literal["audio", "video"]
    unit: str
    least: float
    largest: float


KINDS = {
    "frozen": _Kind(frozen, "video", "%", 0, 1),
    "dropped": _Kind(dropped, "video", "%", 0, 1),
    "occluded": _Kind(occluded, "video", "%", 0, 1),
    "blurred": _Kind(blurred, "video", "px", 0.1, MOUTH_SIZE),
    "shifted": _Kind(shifted, "video", "ms", -10_000, 10_000),
    "silent": _Kind(silent, "audio", "%", 0, 1),
}


@dataclass(frozen=True)
class Fault:
    """A fault of a kind and an amount.

    Attributes:
        kind: a key of :data:`KINDS`.
        amount: a share from 0 to 1 (``frozen``, ``dropped``, ``occluded``, ``silent``), pixels (``blurred``) or
            milliseconds (``shifted``; positive: the lips are late).
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` for an unknown kind or an impossible amount."""
        if self.kind not in KINDS:
            raise MomeError(f"fault '{self.kind}' is unknown: choose from {', '.join(KINDS)}")
        known = KINDS[self.kind]
        if not known.least <= self.amount <= known.largest:
            raise MomeError(f"fault {self.kind}={self.amount:g}: give {known.least:g} to {known.largest:g}")
        if self.kind == "shifted" and self.amount % _FRAME_MS:
            raise MomeError(f"fault shifted={self.amount:g}: give whole frames, multiples of {_FRAME_MS} ms")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``"frozen=0.5"``; raise :class:`MomeError` for other text and for what is not possible."""
        kind, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            raise MomeError(f"fault '{text}' is not readable: write KIND=AMOUNT, such as frozen=0.5") from None
        return cls(kind.strip(), value)

    @property
    def modality(self) -> Literal["audio", "video"]:
        """What it spoils."""
        return KINDS[self.kind].modality

    def concerns(self, rates: Rates) -> bool:
        """Whether it changes what is read at these rates; lips out of step are out of step with the sound."""
        sides = ("audio", "video") if self.kind == "shifted" else (self.modality,)
        return all(getattr(rates, side) is not None for side in sides)

    def __call__(self, clip: Clip, seed: int, name: str) -> Clip:
        """Return the clip with this fault; ``name`` is the clip's id."""
        rng, change = clip_rng(seed, name), KINDS[self.kind].change
        if self.modality == "audio":
            return clip if clip.audio is None else replace(clip, audio=change(clip.audio, self.amount, rng))
        return clip if clip.mouth is None else replace(clip, mouth=change(clip.mouth, self.amount, rng))

    def __str__(self) -> str:
        unit = KINDS[self.kind].unit
        amount = (
            f"{100 * self.amount:g}" if unit == "%" else f"{self.amount:+g}" if unit == "ms" else f"{self.amount:g}"
        )
        return f"{self.kind} {amount.replace('-', '−')} {unit}"
