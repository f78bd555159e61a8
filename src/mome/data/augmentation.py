"""Augmentation of training clips: noise at random SNRs, random crops, flips, adaptive time masks, misread tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mome.clip import FRAME_RATE, SAMPLE_RATE
from mome.media.noise import mix

MASK_EVERY = 1.0  # seconds of clip per mask
LONGEST_MASK = 0.4  # seconds
CROP_RANGE = 9  # positions of the 88-pixel field in the 96-pixel mouth, along each axis


@dataclass(frozen=True)
class FeatureMasks:
    """Spans to zero in an encoder's features, as SpecAugment (Park et al., Interspeech 2019) does in spectrograms.

    Attributes:
        time: spans of time for each 100 frames; a fraction is the probability of one more.
        time_width: frames of the longest.
        channels: spans of features, each in all frames.
        channel_width: features of the widest.
    """

    time: float = 0.0
    time_width: int = 20
    channels: int = 0
    channel_width: int = 50

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """Mask frames ``(T, D)`` float; returns a copy if anything is masked."""
        length, width = frames.shape
        spans = int(self.time * length / 100 + rng.random()) if self.time else 0
        if spans or self.channels:
            frames = frames.clone()
        for _ in range(spans):
            frames[_span(length, self.time_width, rng)] = 0
        for _ in range(self.channels):
            frames[:, _span(width, self.channel_width, rng)] = 0
        return frames


def _span(size: int, longest: int, rng: np.random.Generator) -> slice:
    """A span of ``size`` places: up to ``longest``, all lengths and all places equally likely."""
    length = int(rng.integers(0, min(longest, size) + 1))
    start = int(rng.integers(0, size - length + 1))
    return slice(start, start + length)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training clips; all draws come from the generator passed in.

    The published recipe draws one field of the mouth for the whole clip, adaptive time masks (one per second, up to
    0.4 s) for sound and video, and noise at an SNR from a list.

    Attributes:
        noises: recordings to draw from, ``(samples,)`` float32 at 16 kHz; empty for no noise.
        snrs: signal-to-noise ratios in dB to draw from; infinity leaves the clip clean.
        crop: whether to draw the place of the 88-pixel field in the mouth.
        flip: whether to mirror half of the clips.
        time_mask: whether to blank random spans of time.
        features: masks of encoder features.
        token_noise: share of a transcript's tokens that are read as others, see :meth:`misread`.
    """

    noises: tuple[np.ndarray, ...] = ()
    snrs: tuple[float, ...] = ()
    crop: bool = True
    flip: bool = True
    time_mask: bool = True
    features: FeatureMasks = FeatureMasks()
    token_noise: float = 0.0

    def is_random(self, audio: bool, video: bool) -> bool:
        """Whether chance touches what the encoders of these modalities read."""
        heard = self.time_mask or bool(self.noises and self.snrs)
        return (audio and heard) or (video and (self.time_mask or self.crop or self.flip))

    def audio(self, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask a waveform ``(samples,)`` float32 and mix noise into it; returns the same length."""
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
        """Draw the upper left corner of the field, ``None`` for the middle, and whether to mirror."""
        offset = (int(rng.integers(CROP_RANGE)), int(rng.integers(CROP_RANGE))) if self.crop else None
        return offset, bool(self.flip and rng.random() < 0.5)

    def mask_video(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Set spans of normalised frames ``(T, H, W)`` to the mean grey value, 0."""
        pixels = pixels.copy()
        if self.time_mask:
            for span in time_masks(len(pixels), FRAME_RATE, rng):
                pixels[span] = 0
        return pixels

    def misread(self, labels: Tensor, lengths: Sequence[int], rngs: Sequence[np.random.Generator]) -> Tensor:
        """Replace a share of the transcripts' tokens by tokens of the batch, for a language model to read.

        With teacher forcing a model can guess the next word from words that are always right, and then writes on by
        itself when it transcribes; one that cannot trust them listens. As word dropout (Bowman et al., "Generating
        Sentences from a Continuous Space", CoNLL 2016), but with tokens that occur instead of one that does not.

        Args:
            labels: ``(B, S)`` int64 transcript ids, padded on the right.
            lengths: numbers of tokens of the B transcripts, at least 1, of which the last one is never replaced.
            rngs: a generator for each clip.

        Returns:
            A copy, ``(B, S)``.
        """
        read = labels.clone()
        pool = torch.cat([row[: length - 1] for row, length in zip(labels, lengths, strict=True)])
        for row, length, rng in zip(read, lengths, rngs, strict=True):
            places = np.flatnonzero(rng.random(length - 1) < self.token_noise)
            row[places] = pool[rng.integers(len(pool), size=len(places))]
        return read


def time_masks(length: int, rate: int, rng: np.random.Generator) -> list[slice]:
    """Draw spans to blank of ``length`` samples at ``rate`` Hz: one per started second, each up to 0.4 s long."""
    spans = []
    for _ in range(math.ceil(length / (rate * MASK_EVERY))):
        width = int(rng.integers(0, int(LONGEST_MASK * rate)))
        if 0 < width < length:
            start = int(rng.integers(0, length - width))
            spans.append(slice(start, start + width))
    return spans
