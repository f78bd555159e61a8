"""Whether a mouth moves as if it spoke."""

from __future__ import annotations

import cv2
import numpy as np

from mome.clip import FRAME_RATE
from mome.media.speech import FRAME_SECONDS

# Detail finer than this many pixels is noise of the camera and the crop's jitter; the crop's margin is cheeks and nose.
_BLUR, _ROWS, _COLUMNS = 2.0, slice(20, 84), slice(12, 84)
_LEAST_CONTRAST = 8.0  # grey levels: below it a picture is flat, and only noise changes
# Changes over two frames, averaged over seven, in units of the picture's contrast: of speaking mouths 95 % are above
# 0.08, of silent ones in the same clips half are above 0.054 (GRID, docs/media.md).
_SMOOTH, _SPEAKING = 7, 0.09


def mouth_motion(mouth: np.ndarray) -> np.ndarray:
    """How much a mouth changes: (frames, 96, 96) uint8 at 25 fps to (frames,) float32.

    The mean absolute difference of the frames before and after, without brightness and relative to the contrast, and
    the mean of that over seven frames; 0 for a picture that stands still.
    """
    if len(mouth) < 3:
        return np.zeros(len(mouth), np.float32)
    lips = np.stack([cv2.GaussianBlur(frame, (0, 0), _BLUR) for frame in mouth])[:, _ROWS, _COLUMNS].astype(np.float32)
    lips -= lips.mean((1, 2), keepdims=True)
    contrast = np.maximum(lips[1:-1].std((1, 2)), _LEAST_CONTRAST)
    change = np.abs(lips[2:] - lips[:-2]).mean((1, 2)) / contrast
    padded = np.pad(change, (1 + _SMOOTH // 2,) * 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTH, 1 / _SMOOTH), "valid").astype(np.float32)


def speaking(mouth: np.ndarray) -> np.ndarray:
    """How likely a mouth speaks, from 0 to 1, in each frame of :mod:`mome.media.speech`: (frames,) float32.

    One half at the motion that divides speaking from silent mouths best.
    """
    motion = mouth_motion(mouth)
    frames = round(len(mouth) / FRAME_RATE / FRAME_SECONDS)
    if not len(motion):
        return np.zeros(frames, np.float32)
    times = (np.arange(frames) + 0.5) * FRAME_SECONDS * FRAME_RATE - 0.5
    relative = np.interp(times, np.arange(len(motion)), motion) / _SPEAKING
    return (relative**2 / (1 + relative**2)).astype(np.float32)


def moving_seconds(mouth: np.ndarray) -> float:
    """For how many seconds a mouth (frames, 96, 96) uint8 moves as if it spoke."""
    return float((mouth_motion(mouth) >= _SPEAKING).sum()) / FRAME_RATE
