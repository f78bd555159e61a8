"""Points to crops: gaps, smoothing, alignment, sampling."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.media.mouth import (
    MEAN_FACE,
    MOUTH_SIZE,
    crop,
    crop_matrix,
    fill_gaps,
    moving_average,
    similarity,
    smooth,
)


def moved(points: np.ndarray, scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + shift


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_similarity_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, 5, 2)) * 50 + 100
    # Slow and plain: x' = a x - b y + c, y' = b x + a y + d as ten equations in four unknowns.
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, c], [b, a, d]], atol=1e-8)


@pytest.mark.parametrize(("scale", "degrees", "shift"), [(1, 0, (0, 0)), (3.5, 20, (400, 90)), (0.4, -35, (5, 9))])
def test_every_pose_of_the_mean_face_gives_the_same_crop_geometry(scale, degrees, shift):
    points = moved(MEAN_FACE, scale, degrees, shift)
    matrix = crop_matrix(points)
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    right, left = placed[3], placed[4]
    assert (right + left) / 2 == pytest.approx((MOUTH_SIZE - 1) / 2)
    assert left - right == pytest.approx([45.0, -0.2], abs=0.1)
    # The nose tip is in the picture, the eyes are above it.
    assert 10 < placed[2, 1] < 30
    assert (placed[:2, 1] < 0).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5, 6.0])
def test_crop_shows_the_same_mouth_from_small_and_large_faces(scale):
    points = moved(MEAN_FACE, scale, 0, (20 * scale, 10 * scale))
    frame = np.full((round(300 * scale), round(320 * scale)), 60, np.uint8)
    centre = points[3:].mean(axis=0)
    for dx in range(-40, 41, 16):
        spot = centre + [dx * scale, 0]
        cv2.circle(frame, tuple(np.rint(spot).astype(int).tolist()), round(5 * scale), 220, -1)
    mouth = crop(frame, points)
    assert mouth.shape == (96, 96)
    assert mouth.dtype == np.uint8
    columns = mouth[46:50].astype(float).mean(axis=0)
    expected = [47.5 + dx for dx in range(-40, 41, 16)]
    for place in expected:
        near = slice(round(place) - 7, round(place) + 8)
        weight = columns[near] - 60
        assert (weight * np.arange(near.start, near.stop)).sum() / weight.sum() == pytest.approx(place, abs=1.0)


def test_large_faces_are_averaged_not_sampled():
    # A chessboard of single pixels is grey from afar; without averaging it would be stripes.
    frame = (np.indices((1500, 1600)).sum(axis=0) % 2 * 255).astype(np.uint8)
    mouth = crop(frame, moved(MEAN_FACE, 5.3, 7, (50, 50))).astype(int)
    assert np.abs(mouth - 127).max() < 30


def test_crop_beyond_the_frame_repeats_its_edge():
    frame = np.full((120, 140), 77, np.uint8)
    assert (crop(frame, MEAN_FACE + 60) == 77).all()


def test_gaps_are_interpolated_and_ends_held():
    frames = np.arange(10, dtype=float)
    truth = MEAN_FACE + 3 * frames[:, None, None]
    points = truth.copy()
    points[[0, 1, 4, 5, 6, 9]] = np.nan
    filled = fill_gaps(points)
    np.testing.assert_allclose(filled[2:9], truth[2:9])
    np.testing.assert_allclose(filled[:2], truth[[2, 2]])
    np.testing.assert_allclose(filled[9], truth[8])
    assert np.isnan(points[0]).all()


@pytest.mark.parametrize("radius", [0, 1, 6, 50])
def test_moving_average_is_the_mean_of_the_neighbours(radius):
    values = np.random.default_rng(0).normal(size=(23, 5, 2))
    expected = [values[max(k - radius, 0) : k + radius + 1].mean(axis=0) for k in range(23)]
    np.testing.assert_allclose(moving_average(values, radius), expected)


def test_smoothing_steadies_a_still_face_and_follows_a_moving_one():
    rng = np.random.default_rng(0)
    still = MEAN_FACE + rng.normal(size=(75, 5, 2))
    noise = np.diff(still, axis=0).std()
    assert np.diff(smooth(still), axis=0).std() < 0.2 * noise
    moving = MEAN_FACE + np.arange(75.0)[:, None, None] * 4
    np.testing.assert_allclose(smooth(moving)[6:-6], moving[6:-6])
