"""A random talker for the camera: the measures of the mouth, its tones, light and picture quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Face:
    """One talker's mouth and camera: lengths in face units (about a pixel), tones in grey levels 0..255."""

    half_width: float
    upper_lip: float
    lower_lip: float
    bow: float
    corner: float
    skin: float
    lip: float
    lip_shade: float
    cavity: float
    teeth: float
    tongue: float
    tooth_edge: float
    scale: float
    angle: float
    offset: tuple[float, float]
    sway: float
    sway_rate: tuple[float, float, float]
    sway_phase: tuple[float, float, float]
    light: tuple[float, float]
    contrast: float
    stubble: float
    nose: float
    fold: float
    chin: float
    blur: float
    noise: float
    texture_seed: int


def random_face(rng: np.random.Generator) -> Face:
    """Draw a face, its place in the frame, its light and its camera."""
    skin = float(rng.uniform(85, 200))
    lip = skin * float(rng.uniform(0.58, 0.82))
    rates, phases = rng.uniform(0.1, 0.45, 3), rng.uniform(0, 2 * np.pi, 3)
    return Face(
        half_width=float(rng.uniform(22.5, 25.5)),
        upper_lip=float(rng.uniform(4.4, 7.4)),
        lower_lip=float(rng.uniform(6.0, 9.6)),
        bow=float(rng.uniform(0.6, 2.0)),
        corner=float(rng.uniform(-1.2, 1.0)),
        skin=skin,
        lip=lip,
        lip_shade=float(rng.uniform(0.78, 0.95)),
        cavity=float(rng.uniform(12, 30)),
        teeth=float(min(225.0, 55 + 0.72 * skin + rng.uniform(-20, 25))),
        tongue=lip * float(rng.uniform(0.62, 0.85)),
        tooth_edge=float(rng.uniform(0.3, 2.2)),
        scale=float(rng.uniform(0.87, 1.14)),
        angle=float(rng.uniform(-6, 6)),
        offset=(float(rng.uniform(-3.5, 3.5)), float(rng.uniform(-3.5, 3.5))),
        sway=float(rng.uniform(0.2, 1.3)),
        sway_rate=(float(rates[0]), float(rates[1]), float(rates[2])),
        sway_phase=(float(phases[0]), float(phases[1]), float(phases[2])),
        light=(float(rng.uniform(-0.22, 0.22)), float(rng.uniform(-0.18, 0.08))),
        contrast=float(rng.uniform(0.8, 1.1)),
        stubble=float(rng.choice([0.0, 0.0, 1.0]) * rng.uniform(1, 6)),
        nose=float(rng.uniform(27, 33)),
        fold=float(rng.uniform(0.0, 0.12)),
        chin=float(rng.uniform(31, 38)),
        blur=float(rng.uniform(0.3, 0.9)),
        noise=float(rng.uniform(0.6, 3.2)),
        texture_seed=int(rng.integers(2**31)),
    )
