"""AV-HuBERT's video input: the middle of the mouth crops, scaled and normalised."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

FIELD = 88  # side in pixels of the part of the 96-pixel mouth crop that the encoder sees


class PixelFormat(Protocol):
    """Size, mean and deviation of an encoder's input, as an ``AVHubertConfig`` or a processor holds them."""

    image_size: int
    image_mean: float
    image_std: float


def mouth_pixels(
    mouth: np.ndarray, config: PixelFormat, offset: tuple[int, int] | None = None, flip: bool = False
) -> np.ndarray:
    """Crop, scale and normalise mouth frames.

    Args:
        mouth: ``(T, 96, 96)`` uint8 grey.
        config: gives ``image_size``, ``image_mean`` and ``image_std``.
        offset: top and left corner of the 88-pixel field, each 0 to 8 (random crops in training);
            ``None`` takes the middle.
        flip: mirror left and right (training).

    Returns:
        ``(T, image_size, image_size)`` float32.
    """
    middle = (mouth.shape[1] - FIELD) // 2
    top, left = offset if offset is not None else (middle, middle)
    field = mouth[:, top : top + FIELD, left : left + FIELD]
    if flip:
        field = field[..., ::-1]
    size = config.image_size
    if size == FIELD:
        pixels = field.astype(np.float32)
    else:
        pixels = np.stack([cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA) for f in field.astype(np.float32)])
    return (pixels / 255 - config.image_mean) / config.image_std
