"""The motion of a mouth: none where nothing but light and place change, and pieces that hold all of it."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from mome.media import motion
from mome.media.motion import MOVING, MotionCutter, cut_by_motion, mouth_motion, moves, moving, moving_seconds


def mouth(openness: float, shift: tuple[float, float] = (0, 0), gain: float = 1.0) -> np.ndarray:
    """A (96, 96) grey face with skin, lips and a mouth that is open by some pixels."""
    rng = np.random.default_rng(0)
    skin = cv2.GaussianBlur(rng.uniform(0, 255, (96, 96)).astype(np.float32), (0, 0), 3)
    picture = 140 + 2 * (skin - skin.mean())
    cv2.ellipse(picture, (48, 52), (24, 9 + round(openness)), 0, 0, 360, 95, -1)
    cv2.ellipse(picture, (48, 52), (18, 1 + round(openness)), 0, 0, 360, 30, -1)
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return np.clip(gain * cv2.warpAffine(picture, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE), 0, 255).astype(
        np.uint8
    )


def speaking(frames: int) -> np.ndarray:
    return np.stack([mouth(5 + 5 * np.sin(1.1 * number)) for number in range(frames)])


def test_a_frozen_mouth_does_not_move_at_all():
    motion = mouth_motion(np.stack([mouth(4)] * 50))
    assert motion.shape == (50,)
    assert motion.dtype == np.float32
    assert not motion.any()


@pytest.mark.parametrize(
    "still",
    [
        [mouth(2, gain=0.7 + 0.3 * (number % 3) / 2) for number in range(50)],
        [mouth(2, shift=(number % 4, (number // 2) % 4)) for number in range(50)],
        [mouth(2, shift=(0.1 * number, 0.05 * number)) for number in range(50)],
        list(np.random.default_rng(0).normal(128, 1, (50, 96, 96)).clip(0, 255).astype(np.uint8)),
    ],
    ids=["light", "jitter", "drift", "noise"],
)
def test_light_place_and_noise_are_no_motion(still):
    assert mouth_motion(np.stack(still)).mean() < MOVING / 2
    assert not moves(np.stack(still))


def test_a_mouth_that_opens_and_closes_moves():
    assert mouth_motion(speaking(50)).mean() > 2 * MOVING
    assert moves(speaking(50))


def test_a_cut_of_the_film_is_no_speech():
    other = mouth(14)[::-1]
    film = np.stack([mouth(2)] * 30 + [other] * 30 + [mouth(2)] * 30)
    # Beside a jump the picture settles: not enough for speech by itself.
    settling = np.minimum(np.abs(np.arange(90) - 30), np.abs(np.arange(90) - 60)) < 6
    assert (mouth_motion(film)[[30, 60]] > 0.1).all()
    assert not cut_by_motion(mouth_motion(film) + 0.006 * settling, 5)
    assert moving_seconds(film) == 0
    # The control: jumps that are not alone are speech, also of a camera with fewer frames.
    for each in (1, 2, 4):
        slow = np.repeat(np.stack([mouth(2), other] * 12), each, axis=0)
        assert np.median(mouth_motion(slow)[each::each]) > 0.1
        assert moves(slow)


def test_motion_goes_on_from_the_frame_before():
    crops = speaking(20)
    parts = [mouth_motion(crops[:7]), mouth_motion(crops[7:], crops[6])]
    np.testing.assert_array_equal(np.concatenate(parts), mouth_motion(crops))


def bursts(*spans: tuple[float, float], seconds: float) -> np.ndarray:
    times = np.arange(round(25 * seconds)) / 25
    return sum((0.05 * ((times >= start) & (times < end)) for start, end in spans), np.zeros(len(times)))


def test_pieces_hold_all_motion_and_end_where_the_mouth_rests():
    first, second = cut_by_motion(bursts((2, 4), (6, 9), seconds=12), 10)
    assert 1.2 < first.start <= 2
    assert 4 <= first.end < 4.8
    assert 5.2 < second.start <= 6
    assert 9 <= second.end < 9.8
    assert cut_by_motion(np.zeros(250), 10) == []
    assert cut_by_motion(bursts((3, 3.04), seconds=6), 10) == []  # a cut of the film
    assert cut_by_motion(np.zeros(0), 10) == []


@pytest.mark.parametrize("longest", [3.4, 8.0])
def test_long_speech_is_cut_where_the_mouth_is_stillest(longest):
    motion = 0.03 + 0.02 * np.sin(2 * np.pi * np.arange(1500) / 60)  # stillest every 2.4 s, at 1.8 s and so on
    pieces = cut_by_motion(motion, longest)
    assert all(piece.end - piece.start <= longest for piece in pieces)
    assert (pieces[0].start, pieces[-1].end) == (0, 60)
    assert [piece.continued for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    for before, after in pairwise(pieces):
        assert before.end - after.start == pytest.approx(min(1.0, longest / 4), abs=0.064)
        assert abs(((before.end + after.start) / 2 - 1.8 + 1.2) % 2.4 - 1.2) < 0.15


def test_where_the_mouth_rests_nothing_is_repeated():
    pieces = cut_by_motion(bursts((1, 4), (4.8, 8), seconds=10), 5)
    assert len(pieces) == 2
    assert not any(piece.continued for piece in pieces)
    assert pieces[0].end <= pieces[1].start


def test_pieces_do_not_depend_on_how_the_video_arrives():
    rng = np.random.default_rng(0)
    motion = rng.uniform(0, 0.03, 2000) * np.repeat(rng.integers(0, 2, 80), 25)
    motion[rng.integers(0, 2000, 60)] += 0.3
    whole, cutter, pieces = cut_by_motion(motion, 5), MotionCutter(5), []
    for part in np.split(motion, np.sort(rng.integers(0, 2000, 60))):
        pieces += cutter.of(part)
    assert pieces + cutter.rest() == whole
    assert len(whole) > 10


def test_pieces_of_a_video_while_it_is_read():
    crops = np.concatenate([speaking(130), np.repeat(speaking(1), 60, axis=0), speaking(75)])
    asked = []

    def mouth(start: float, end: float) -> np.ndarray | None:
        asked.append((start, end))
        part = crops[round(25 * start) : round(25 * end)]
        return part if len(part) else None

    found = list(moving(mouth, len(crops) / 25, 3.0))
    assert [piece for piece, _ in found] == cut_by_motion(mouth_motion(crops), 3.0)
    for piece, own in found:
        np.testing.assert_array_equal(own, crops[round(25 * piece.start) : round(25 * piece.end)])
    assert 2 < len(found) < 7
    assert all(before[1] == after[0] for before, after in pairwise(asked))


def test_how_likely_a_mouth_speaks_in_the_frames_of_the_speech_detector():
    crops = np.concatenate([np.repeat(speaking(1), 50, axis=0), speaking(75), np.repeat(speaking(1), 50, axis=0)])
    likely = motion.speaking(crops)
    assert len(likely) == round(len(crops) / 25 / 0.032)
    assert likely.dtype == np.float32
    times = (np.arange(len(likely)) + 0.5) * 0.032
    assert (likely[(times > 2.3) & (times < 4.7)] >= 0.5).all()
    assert (likely[(times < 1.5) | (times > 5.5)] < 0.1).all()
    assert 2.4 < motion.moving_seconds(crops) < 3.6
    assert motion.moving_seconds(crops[:40]) == 0
    assert len(motion.speaking(crops[:0])) == motion.moving_seconds(crops[:0]) == 0
