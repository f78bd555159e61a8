"""Drawing grey pictures of a mouth from lip parameters: skin, lips, teeth and tongue of one talker.

All parts are drawn upright on a canvas of twice the resolution, and one warp maps the canvas to the frame. Lengths are
in face units: a unit is a pixel of a frame of average scale, with the mouth at the origin and y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mome.clip import FRAME_RATE, MOUTH_SIZE
from mome.synthesis.visemes import CHANNELS

_SUPER = 2
_CANVAS = 144 * _SUPER
_CENTRE = _CANVAS / 2
_SHIFT = 4
_X = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 41))
_ROUNDED = np.sqrt(1.0 - _X**2)
_ROI = (
    slice(int(_CENTRE) - 20 * _SUPER, int(_CENTRE) + 40 * _SUPER),
    slice(int(_CENTRE) - 36 * _SUPER, int(_CENTRE) + 36 * _SUPER),
)


@dataclass(frozen=True)
class Face:
    """The mouth and camera of one talker: lengths in face units (about a pixel), tones in grey levels 0..255."""

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
    """Draw a random face, its place in the frame, its light and its camera."""
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


def draw_mouth(face: Face, track: np.ndarray) -> np.ndarray:
    """Draw a frame for each row of ``track``, ``(frames, 7)`` float with columns as in ``visemes.CHANNELS``.

    Returns ``(frames, 96, 96)`` uint8 with the mouth near the middle. Raises ValueError for another shape.
    """
    if track.ndim != 2 or track.shape[1] != len(CHANNELS):
        raise ValueError(f"a lip track is (frames, {len(CHANNELS)}), this one is {track.shape}")
    rng = np.random.default_rng(face.texture_seed)
    skin, lips = _skin(face, rng), _lip_texture(face, rng)
    rows, columns = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    below = np.clip(((rows - _CENTRE) / _SUPER + 1.0) / 14.0, 0.0, 1.0) * np.exp(
        -(((columns - _CENTRE) / _SUPER / 46.0) ** 4)
    )
    below = (below * below * (3 - 2 * below)).astype(np.float32)
    light = _light(face)
    grain = face.noise * rng.standard_normal((len(track), MOUTH_SIZE, MOUTH_SIZE), dtype=np.float32)
    frames = np.empty((len(track), MOUTH_SIZE, MOUTH_SIZE), dtype=np.uint8)
    for index, row in enumerate(track):
        shape = _Shape(face, row)
        map_rows = rows - np.float32(0.8 * shape.jaw * _SUPER) * below
        canvas = cv2.remap(skin, columns, map_rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        _draw(canvas, lips, face, shape)
        canvas = cv2.GaussianBlur(canvas, (0, 0), 0.8 + _SUPER * face.blur * 0.6)
        frame = cv2.warpAffine(
            canvas,
            _placement(face, index / FRAME_RATE),
            (MOUTH_SIZE, MOUTH_SIZE),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        frames[index] = np.clip(frame * light + grain[index], 0, 255)
    return frames


class _Shape:
    """The outlines of one frame in face units."""

    def __init__(self, face: Face, row: np.ndarray) -> None:
        opening, spread, rounding, teeth, tongue, contact, tuck = (float(value) for value in row)
        opening *= 1.0 - contact
        self.teeth, self.tongue, self.tuck, self.rounding = teeth, tongue, tuck, rounding
        gap = 23.0 * opening * (1.0 - 0.15 * rounding)
        self.half = face.half_width * (1 + 0.13 * spread - 0.34 * rounding - 0.05 * opening)
        self.inner = self.half * np.clip(0.42 + 0.38 * min(1.0, opening * 2) + 0.08 * spread, 0.3, 0.88)
        lift = 0.25 + 0.15 * teeth
        self.jaw = 0.75 * gap * (1 - tuck)
        rise = lift * gap + 1.6 * teeth * (1 - contact) * (1 - 0.5 * rounding) + 0.3 * tuck
        drop = (1 - lift) * gap * (1 - tuck) + 0.5 * teeth * (1 - contact) * (1 - tuck) + 0.4 * tuck
        if contact < 1.0:
            drop = max(drop, -rise)
        plump = 1 + 0.32 * rounding - 0.14 * spread - 0.10 * opening
        upper = face.upper_lip * plump * (1 - 0.42 * contact)
        lower = face.lower_lip * plump * (1 - 0.42 * contact) * (1 - 0.2 * tuck)
        x = _X * self.half
        curve = face.corner * _X**2 - 0.9 * spread * _X**2
        fold = np.sqrt(np.clip(1 - (x / self.inner) ** 2, 0, 1))
        bow = face.bow * (1 - 0.5 * rounding) * np.exp(-((_X / 0.16) ** 2))
        ends = 1 - np.abs(_X) ** (1.6 + 0.8 * rounding)
        self.x = x
        self.top = curve - rise * fold
        self.bottom = curve + drop * fold
        self.upper_edge = np.minimum(curve - rise * _ROUNDED - upper * ends + bow * ends, self.top)
        self.lower_edge = np.maximum(curve + drop * _ROUNDED + lower * np.sqrt(ends) * 0.98, self.bottom)
        self.rise, self.drop, self.lower, self.contact = rise, drop, lower, contact


def _draw(canvas: np.ndarray, lips: np.ndarray, face: Face, shape: _Shape) -> None:
    """Paint lips and the inside of the mouth onto ``canvas`` (uint8, changed in place)."""
    mask = np.zeros_like(canvas)
    both = np.concatenate([shape.upper_edge, shape.lower_edge[::-1]])
    _fill(mask, np.concatenate([shape.x, shape.x[::-1]]), both, 255)
    soft = cv2.GaussianBlur(mask[_ROI], (0, 0), 1.6)
    layer = np.full_like(canvas, round(face.lip))
    middle = 0.5 * (shape.top + shape.bottom)
    _fill(
        layer,
        np.concatenate([shape.x, shape.x[::-1]]),
        np.concatenate([shape.upper_edge - 6, middle[::-1]]),
        face.lip * face.lip_shade,
    )
    shine_y = shape.drop + 0.45 * shape.lower
    shine = _X * 0.5 * shape.half
    _fill(
        layer,
        np.concatenate([shine, shine[::-1]]),
        shine_y + np.concatenate([-_ROUNDED, _ROUNDED[::-1]]) * 0.22 * shape.lower,
        face.lip + (0.3 * (face.skin - face.lip) + 6) * (1 - 0.9 * shape.tuck),
    )
    inked = cv2.GaussianBlur(layer[_ROI], (0, 0), 2.2)
    inked = cv2.add(inked, lips[_ROI], dtype=cv2.CV_8U)
    _blend(canvas[_ROI], inked, soft)
    _line(canvas, shape, face)
    if shape.rise + shape.drop > 0.3:
        _draw_inside(canvas, face, shape)


def _draw_inside(canvas: np.ndarray, face: Face, shape: _Shape) -> None:
    """Paint cavity, teeth and tongue within the inner outline of the lips."""
    mask = np.zeros_like(canvas)
    _fill(
        mask,
        np.concatenate([shape.x, shape.x[::-1]]),
        np.concatenate([shape.top, shape.bottom[::-1]]),
        255,
    )
    layer = np.full_like(canvas, round(face.cavity))
    wide = _X * shape.inner
    gap = shape.rise + shape.drop
    resting = shape.drop + 3.0 - 0.42 * gap * _ROUNDED
    raised = (shape.drop - 0.72 * gap) * _ROUNDED + (shape.drop + 2) * (1 - _ROUNDED)
    surface = (1 - shape.tongue) * resting + shape.tongue * raised
    reach = 0.72 - 0.18 * shape.tongue
    _fill(
        layer,
        np.concatenate([wide, wide[::-1]]) * reach,
        np.concatenate([surface, np.full(len(wide), shape.drop + 12.0)]),
        face.tongue * (0.85 + 0.25 * shape.tongue),
    )
    edge = face.tooth_edge + 1.6 * shape.tuck - 1.2 * shape.rounding
    arch = 1 - 0.35 * (1 - _ROUNDED)
    upper = edge * arch - 1.5 * (1 - _ROUNDED)
    _fill(
        layer,
        np.concatenate([wide, wide[::-1]]) * 0.93,
        np.concatenate([np.full(len(wide), -shape.rise - 8.0), upper[::-1]]),
        face.teeth,
    )
    rim = shape.jaw + edge + 0.8 + 1.5 * (1 - _ROUNDED) - 0.6 * shape.teeth
    rim = np.maximum(rim, upper + 0.5)
    _fill(
        layer,
        np.concatenate([wide, wide[::-1]]) * 0.8,
        np.concatenate([rim, np.full(len(wide), shape.drop + 12.0)]),
        face.teeth * 0.86,
    )
    if shape.tongue > 0.75:
        tip = _X * shape.inner * 0.42
        height = min(0.3 * gap, 3.0)
        level = edge + 0.6 + 0.25 * gap
        _fill(
            layer,
            np.concatenate([tip, tip[::-1]]),
            level + np.concatenate([-_ROUNDED, _ROUNDED[::-1]]) * height,
            face.tongue * 1.3,
        )
    inside = cv2.GaussianBlur(layer[_ROI], (0, 0), 1.0)
    shadow = cv2.GaussianBlur(mask[_ROI], (0, 0), 3.0).astype(np.float32) / 255.0
    shadow = np.roll(shadow, int(1.2 * _SUPER), axis=0)
    inside = (inside * (0.35 + 0.65 * np.clip(1.7 * shadow - 0.6, 0, 1))).astype(np.uint8)
    _blend(canvas[_ROI], inside, mask[_ROI])


def _line(canvas: np.ndarray, shape: _Shape, face: Face) -> None:
    """Paint the dark line where the lips meet, out to the corners."""
    middle = 0.5 * (shape.top + shape.bottom)
    for width, tone, thickness in ((1.0, 0.72, 1), (0.86, 0.5, 2)):
        points = _points(shape.x * width, middle)
        cv2.polylines(canvas, [points], False, (face.lip * tone,), thickness, cv2.LINE_AA, _SHIFT)


def _skin(face: Face, rng: np.random.Generator) -> np.ndarray:
    """The face without its mouth, ``(_CANVAS, _CANVAS)`` uint8."""
    y, x = (np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32) - _CENTRE) / _SUPER
    tone = np.full((_CANVAS, _CANVAS), face.skin, dtype=np.float32)

    def spot(cx: float, cy: float, rx: float, ry: float, amount: float) -> None:
        tone[...] += amount * face.skin * np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)

    spot(0, -face.nose - 12, 14, 15, 0.16)
    for side in (-1, 1):
        spot(side * 6.0, -face.nose + 1.0, 3.6, 2.0, -0.55)
        spot(side * 12.5, -face.nose - 3, 3.0, 6.0, -0.20)
        down = y + face.nose
        fold = side * (14 + 0.85 * down - 0.011 * down**2)
        depth = np.exp(-(((x - fold) / 4.5) ** 2) - ((down - 14) / 13) ** 2)
        tone -= face.fold * face.skin * depth
        spot(side * 2.6, -14, 1.6, 7, 0.06)
        spot(side * (face.half_width + 3), 1, 4, 6, -0.12)
        spot(side * 55, 10, 18, 60, -0.25)
    spot(0, -14, 2.0, 8, -0.08)
    spot(0, face.lower_lip + 6, 14, 4.0, -0.22)
    spot(0, face.lower_lip + 18, 14, 9.0, 0.08)
    tone -= 0.30 * face.skin / (1 + np.exp(-(y - face.chin - 10 + 0.006 * x**2) / 2.0))
    coarse = cv2.resize(rng.standard_normal((18, 18)).astype(np.float32), (_CANVAS, _CANVAS))
    fine = cv2.GaussianBlur(rng.standard_normal(tone.shape).astype(np.float32), (0, 0), 1.2)
    beard = 1 / (1 + np.exp(-(y + face.nose - 9 + 0.02 * x**2 * (y < 0)) / 3.0))
    tone += 2.0 * coarse + (5.0 + 2.5 * face.stubble * beard) * fine - 2.0 * face.stubble * beard
    return np.clip(tone, 4, 250).astype(np.uint8)


def _lip_texture(face: Face, rng: np.random.Generator) -> np.ndarray:
    """Vertical wrinkles to add to the lips, ``(_CANVAS, _CANVAS)`` int16."""
    wrinkles = rng.standard_normal((_CANVAS // 12, _CANVAS // 3)).astype(np.float32)
    return (0.045 * face.lip * cv2.resize(wrinkles, (_CANVAS, _CANVAS))).astype(np.int16)


def _light(face: Face) -> np.ndarray:
    """The light as a factor for each pixel, ``(96, 96)`` float32."""
    y, x = np.mgrid[0:MOUTH_SIZE, 0:MOUTH_SIZE].astype(np.float32) / MOUTH_SIZE - 0.5
    light: np.ndarray = face.contrast * (1 + 2 * face.light[0] * x + 2 * face.light[1] * y)
    return light.astype(np.float32)


def _placement(face: Face, seconds: float) -> np.ndarray:
    """The affine map from canvas to frame at a time: scale, rotation, offset and slow sway."""
    swing = [
        np.sin(2 * np.pi * rate * seconds + phase) for rate, phase in zip(face.sway_rate, face.sway_phase, strict=True)
    ]
    angle = np.deg2rad(face.angle + face.sway * swing[2])
    scale = face.scale / _SUPER
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = MOUTH_SIZE / 2 + np.array(face.offset) + face.sway * np.array([swing[0], swing[1]])
    return np.column_stack([turn, centre - turn @ np.array([_CENTRE, _CENTRE])])


def _blend(canvas: np.ndarray, layer: np.ndarray, mask: np.ndarray) -> None:
    amount = mask.astype(np.float32) / 255.0
    canvas[...] = (canvas + (layer.astype(np.float32) - canvas) * amount + 0.5).astype(np.uint8)


def _fill(image: np.ndarray, x: np.ndarray, y: np.ndarray, tone: float) -> None:
    cv2.fillPoly(image, [_points(x, y)], (float(tone),), cv2.LINE_AA, _SHIFT)


def _points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    points = (np.stack([x, np.broadcast_to(y, x.shape)], axis=-1) * _SUPER + _CENTRE) * (1 << _SHIFT)
    return np.round(points).astype(np.int32)
