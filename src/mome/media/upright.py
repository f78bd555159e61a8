"""Frames as they should be seen: turned upright, with square pixels."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np


def upright_size(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) in square pixels of a frame as it should be seen."""
    width, height = frame.width, frame.height
    if pixel_aspect and pixel_aspect > 0:
        width = max(round(width * pixel_aspect), 1)
    return (height, width) if _quarter_turns(frame) % 2 else (width, height)


def upright(frame: av.VideoFrame, size: tuple[int, int], colours: str) -> np.ndarray:
    """A frame as it should be seen: uint8, (height, width) for ``gray``, (height, width, 3) for ``bgr24``."""
    turns = _quarter_turns(frame)
    width, height = size[::-1] if turns % 2 else size
    # By itself PyAV 19 scales in threads that it keeps, and a process that is forked afterwards waits for them.
    picture = frame.to_ndarray(format=colours, width=width, height=height, threads=1)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that the file asks for (phones store them beside the picture)."""
    return round(frame.rotation / 90) % 4
