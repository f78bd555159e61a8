"""Augmentation of training clips: noise at random SNRs, random crops, flips, adaptive time masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mome.clip import FRAME_RATE, SAMPLE_RATE
from mome.media.noise import mix

MASK_EVERY = 1.0  # seconds of clip for each mask
LONGEST_MASK = 0.4  # seconds
CROP_RANGE = 9  # positions of the 88-pixel field in the 96-pixel crop, each way


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training clips; every draw comes from the generator that is passed in.

    The published recipe: a random field of the mouth crop for the whole clip, and adaptive time masks (one
    for every second, up to 0.4 s) on both streams, and noise at an SNR drawn from a list.

    Attributes:
        noises: recordings ``(samples,)`` float32 at 16 kHz, one of which is drawn; empty for no noise.
        snrs: signal-to-noise ratios in dB, one of which is drawn; infinity leaves the clip clean.
        crop: draw the place of the 88-pixel field in the mouth crop.
        flip: mirror half of the clips.
        time_mask: blank random spans of time.
    """

    noises: tuple[np.ndarray, ...] = ()
    snrs: tuple[float, ...] = ()
    crop: bool = True
    flip: bool = True
    time_mask: bool = True

    def audio(self, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``(samples,)`` float32 → the same length, masked and noisy."""
        waveform = waveform.copy()
        if self.time_mask:
            for span in time_masks(len(waveform), SAMPLE_RATE, rng):
                waveform[span] = 0
        if self.noises and self.snrs:
            noise = self.noises[int(rng.integers(len(self.noises)))]
            snr = float(self.snrs[int(rng.integers(len(self.snrs)))])
            if math.isfinite(snr) and np.any(waveform):
                waveform = mix(waveform, noise, snr, rng)
        return waveform

    def video_geometry(self, rng: np.random.Generator) -> tuple[tuple[int, int] | None, bool]:
        """Corner of the field (``None``: middle) and whether to mirror."""
        offset = (int(rng.integers(CROP_RANGE)), int(rng.integers(CROP_RANGE))) if self.crop else None
        return offset, bool(self.flip and rng.random() < 0.5)

    def mask_video(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``(T, H, W)`` normalised frames with spans set to the mean grey value."""
        pixels = pixels.copy()
        if self.time_mask:
            for span in time_masks(len(pixels), FRAME_RATE, rng):
                pixels[span] = 0
        return pixels


def time_masks(length: int, rate: int, rng: np.random.Generator) -> list[slice]:
    """Random spans to blank: one for every started second, each up to 0.4 s long."""
    spans = []
    for _ in range(math.ceil(length / (rate * MASK_EVERY))):
        width = int(rng.integers(0, int(LONGEST_MASK * rate)))
        if 0 < width < length:
            start = int(rng.integers(0, length - width))
            spans.append(slice(start, start + width))
    return spans
