from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mome
from mome.media import load_clip
from mome.media.motion import mouth_motion, moving_seconds, speaking

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"  # a mouth crop that speaks


@pytest.fixture(scope="module")
def mouth() -> np.ndarray:
    found = load_clip(CLIP, audio=False).mouth
    assert found is not None
    return found


def test_a_picture_that_stands_still_does_not_move(mouth):
    still = np.repeat(mouth[10:11], 40, axis=0)
    assert not mouth_motion(still).any()
    assert not speaking(still).any()
    assert moving_seconds(still) == 0
    assert mouth_motion(mouth[:2]).tolist() == [0, 0]
    assert len(speaking(mouth[:0])) == len(mouth_motion(mouth[:0])) == 0


def test_a_lamp_that_flickers_and_the_noise_of_a_camera_are_no_speech(mouth):
    rng = np.random.default_rng(0)
    lamp = 10 * np.sin(np.arange(50))[:, None, None] * np.ones((1, 96, 96))
    noise = rng.normal(0, 3, (50, 96, 96))
    shown = np.clip(mouth[10] + lamp + noise, 0, 255).astype(np.uint8)
    assert moving_seconds(shown) == 0


def test_a_mouth_that_speaks_moves(mouth):
    assert moving_seconds(mouth) > 1
    frames = round(len(mouth) / 25 / 0.032)
    likely = speaking(mouth)
    assert len(likely) == frames
    assert likely.max() > 0.7
    assert (likely >= 0).all()
    assert (likely <= 1).all()
    middle = np.arange(frames) * 0.032 * 25
    again = np.interp(middle, np.arange(len(mouth)), mouth_motion(mouth)) > 0.09
    assert (again == (likely > 0.5)).mean() > 0.95
