"""Mouth crops from five face points per frame: gaps filled, points smoothed, faces aligned to a mean face."""

from __future__ import annotations

import cv2
import numpy as np

from mome.clip import MOUTH_SIZE

# Where the five points (right eye, left eye, nose tip, right and left mouth corner; the person's own right)
# lie in the 256 x 256 mean face that the published lip-reading models were trained with.
MEAN_FACE = np.array([[102.1, 94.3], [156.4, 93.6], [128.3, 127.7], [107.2, 157.2], [152.2, 157.0]])

# Shape (size, tilt) is averaged over +-6 frames: points jitter by about a pixel while heads turn slowly.
SHAPE_RADIUS = 6
# Position is averaged over +-2 frames only, so that the crop follows a moving head.
_PLACE_RADIUS = 2


def fill_gaps(points: np.ndarray) -> np.ndarray:
    """Interpolate frames without points linearly; hold the first and the last points at the ends.

    ``points``: (frames, 5, 2), NaN in frames without a face; at least one frame must have one. Returns a copy.
    """
    frames = np.arange(len(points))
    known = ~np.isnan(points).any(axis=(1, 2))
    filled = points.reshape(len(points), -1).copy()
    for column in filled.T:
        column[:] = np.interp(frames, frames[known], column[known])
    return filled.reshape(points.shape)


def moving_average(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the frames within ``radius`` of each frame (axis 0), over fewer at the ends."""
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    frames = np.arange(len(values))
    first, last = np.maximum(frames - radius, 0), np.minimum(frames + radius + 1, len(values))
    counts = (last - first).reshape(-1, *[1] * (values.ndim - 1))
    means: np.ndarray = (sums[last] - sums[first]) / counts
    return means


def smooth(points: np.ndarray) -> np.ndarray:
    """Smooth (frames, 5, 2) points: the shape over half a second, the position over five frames."""
    centres = points.mean(axis=1, keepdims=True)
    smoothed: np.ndarray = moving_average(points - centres, SHAPE_RADIUS) + moving_average(centres, _PLACE_RADIUS)
    return smoothed


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 2 x 3 matrix of the rotation, scale and shift that fits ``source`` to ``target`` in least squares.

    Both are (points, 2). Never mirrors.
    """
    # In complex numbers, rotation and scale are one factor, and least squares has a closed form.
    a, b = source @ [1, 1j], target @ [1, 1j]
    a0, b0 = a.mean(), b.mean()
    factor = np.vdot(a - a0, b - b0) / max(np.vdot(a - a0, a - a0).real, 1e-12)
    shift = b0 - factor * a0
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def crop_matrix(points: np.ndarray) -> np.ndarray:
    """The 2 x 3 matrix from a frame's pixels to its mouth crop, given its five points (5, 2).

    The face is aligned to the mean face; the crop is centred between the mouth corners.
    """
    matrix = similarity(points, MEAN_FACE)
    corners = points[3:].mean(axis=0)
    matrix[:, 2] += (MOUTH_SIZE - 1) / 2 - (matrix[:, :2] @ corners + matrix[:, 2])
    return matrix


def crop(grey: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The (96, 96) uint8 mouth crop of a (height, width) uint8 grey frame, whose edge pixels repeat outside it."""
    matrix = crop_matrix(points)
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 0.5:
        # Bilinear sampling would skip pixels of a large face: shrink by averaging first.
        shrink = max(2 * scale, 1 / max(grey.shape))
        height, width = grey.shape
        small = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        grey = cv2.resize(grey, small, interpolation=cv2.INTER_AREA)
        step = np.array([width / small[0], height / small[1]])
        matrix[:, 2] += matrix[:, :2] @ ((step - 1) / 2)
        matrix[:, :2] = matrix[:, :2] * step
    return cv2.warpAffine(
        grey, matrix, (MOUTH_SIZE, MOUTH_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
