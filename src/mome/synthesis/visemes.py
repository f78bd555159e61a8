"""Lip parameters from phonemes: a target of the mouth for every sound, and the motion between targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mome.synthesis.espeak import Phoneme

CHANNELS: tuple[str, ...] = ("opening", "spread", "rounding", "teeth", "tongue", "contact", "tuck")
"""The lip parameters, each 0..1: opening between the lips, corners pulled apart, lips pushed forward, teeth visible,
tongue tip raised, lips pressed together (b p m), lower lip under the upper teeth (f v)."""

_STEPS_PER_SECOND = 200


@dataclass(frozen=True)
class Viseme:
    """A target of the mouth, its weight against the neighbouring ones (0..1), and its contact, if any."""

    opening: float
    spread: float = 0.0
    rounding: float = 0.0
    teeth: float = 0.2
    tongue: float = 0.0
    weight: float = 1.0
    kind: str = ""

    def values(self) -> tuple[float, ...]:
        """The five parameters without contact and tuck, in the order of :data:`CHANNELS`."""
        return (self.opening, self.spread, self.rounding, self.teeth, self.tongue)


REST = Viseme(0.03, teeth=0.0, weight=0.6)
_LIPS = Viseme(0.05, teeth=0.0, weight=0.5, kind="contact")
_LABIODENTAL = Viseme(0.14, 0.1, 0.0, 0.9, 0.0, 0.7, "tuck")
_DENTAL = Viseme(0.26, 0.15, 0.0, 0.5, 1.0, 0.9)
_ALVEOLAR = Viseme(0.24, 0.15, 0.0, 0.6, 0.65, 0.55)
_LATERAL = Viseme(0.34, 0.1, 0.0, 0.35, 0.9, 0.65)
_SIBILANT = Viseme(0.17, 0.45, 0.0, 1.0, 0.1, 0.8)
_HUSHING = Viseme(0.24, 0.0, 0.65, 0.95, 0.1, 0.9)
_VELAR = Viseme(0.28, 0.05, 0.0, 0.3, 0.0, 0.3)
_BREATH = Viseme(0.35, 0.0, 0.0, 0.2, 0.0, 0.15)
_R = Viseme(0.22, 0.0, 0.5, 0.35, 0.15, 0.7)
_W = Viseme(0.09, 0.0, 1.0, 0.0, 0.0, 1.0)
_J = Viseme(0.2, 0.55, 0.0, 0.5, 0.0, 0.6)
_EE = Viseme(0.24, 0.95, 0.0, 0.6)
_IH = Viseme(0.32, 0.55, 0.0, 0.45)
_EH = Viseme(0.52, 0.4, 0.0, 0.4)
_AE = Viseme(0.78, 0.35, 0.0, 0.4)
_AH = Viseme(0.92, 0.05, 0.0, 0.2)
_UH = Viseme(0.62, 0.1, 0.0, 0.25)
_OH = Viseme(0.66, 0.0, 0.4, 0.1)
_AW = Viseme(0.5, 0.0, 0.75, 0.0)
_OU = Viseme(0.3, 0.0, 0.9, 0.0)
_PUT = Viseme(0.3, 0.0, 0.6, 0.1)
_OO = Viseme(0.15, 0.0, 1.0, 0.0)
_SCHWA = Viseme(0.36, 0.1, 0.0, 0.3, 0.0, 0.7)
_ER = Viseme(0.38, 0.0, 0.3, 0.25)

_TABLE: dict[str, tuple[Viseme, ...]] = {
    **dict.fromkeys(("p", "b", "m", "m-", "p-", "p#"), (_LIPS,)),
    **dict.fromkeys(("f", "v"), (_LABIODENTAL,)),
    **dict.fromkeys(("T", "D", "t[", "d[", "n["), (_DENTAL,)),
    **dict.fromkeys(("t", "d", "n", "t#", "t2", "d#", "*", "n-", "?", "t-"), (_ALVEOLAR,)),
    **dict.fromkeys(("l", "l#", "L", "l/", "l/2", "l-"), (_LATERAL,)),
    **dict.fromkeys(("s", "z", "s;", "z;", "z#"), (_SIBILANT,)),
    **dict.fromkeys(("S", "Z", "tS", "dZ", "S;"), (_HUSHING,)),
    **dict.fromkeys(("k", "g", "N", "x", "C", "k-", "Q"), (_VELAR,)),
    **dict.fromkeys(("h", "H", "h2"), (_BREATH,)),
    **dict.fromkeys(("r", "r-", "r/", "R", "R2", "r2"), (_R,)),
    **dict.fromkeys(("w", "w#", "hw"), (_W,)),
    **dict.fromkeys(("j", ";", "j/"), (_J,)),
    **dict.fromkeys(("i:", "i", "i:1", "i2"), (_EE,)),
    **dict.fromkeys(("I", "I2", "I#", "Ii"), (_IH,)),
    **dict.fromkeys(("E", "E2", "E#", "e", "e#"), (_EH,)),
    **dict.fromkeys(("a", "a2", "aa", "&", "a/"), (_AE,)),
    **dict.fromkeys(("A:", "A", "A#", "A~", "A@", "aa:"), (_AH,)),
    **dict.fromkeys(("V", "V2"), (_UH,)),
    **dict.fromkeys(("0", "02", "0#"), (_OH,)),
    **dict.fromkeys(("O", "O:", "O2", "O@", "o@", "o:", "O~"), (_AW,)),
    **dict.fromkeys(("U",), (_PUT,)),
    **dict.fromkeys(("u:", "u", "u:1"), (_OO,)),
    **dict.fromkeys(("@", "a#", "@2", "@5", "3", "@-"), (_SCHWA,)),
    **dict.fromkeys(("3:", "IR", "VR"), (_ER,)),
    "@L": (_SCHWA, _LATERAL),
    "eI": (_EH, _EE),
    **dict.fromkeys(("aI", "aI2", "aI3"), (_AE, _IH)),
    "aI@": (_AE, _IH, _SCHWA),
    "aU": (_AE, _OO),
    "aU@": (_AE, _OO, _SCHWA),
    **dict.fromkeys(("oU", "oU#", "o"), (_AW, _OU)),
    "OI": (_AW, _IH),
    **dict.fromkeys(("i@", "i@3", "iə"), (_EE, _SCHWA)),
    **dict.fromkeys(("e@", "E@"), (_EH, _SCHWA)),
    **dict.fromkeys(("U@", "u@"), (_PUT, _SCHWA)),
}


def visemes(symbol: str) -> tuple[Viseme, ...]:
    """The targets of one phoneme, two or three for a diphthong.

    An unknown mnemonic counts as its longest known prefix, or as a neutral vowel if there is none.
    """
    for length in range(len(symbol), 0, -1):
        found = _TABLE.get(symbol[:length])
        if found is not None:
            return found
    return (_SCHWA,)


@dataclass(frozen=True)
class Manner:
    """The articulation of one talker: scales of the movements, smoothing and lead of the lips in seconds."""

    opening: float = 1.0
    spread: float = 1.0
    rounding: float = 1.0
    smoothing: float = 0.030
    lead: float = 0.0
    variation: float = 0.0


def lip_track(phonemes: Sequence[Phoneme], times: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Compute the lip parameters at ``times`` (seconds): ``(len(times), len(CHANNELS))`` float64.

    Targets are smoothed with a Gaussian of standard deviation ``manner.smoothing``; the contacts of b p m f v are
    always reached.
    """
    steps = int(np.ceil((float(times[-1]) + 0.2) * _STEPS_PER_SECOND)) + 1
    clock = np.arange(steps) / _STEPS_PER_SECOND
    targets = np.tile(np.array(REST.values()), (steps, 1))
    weights = np.full(steps, REST.weight)
    bumps = {"contact": np.zeros(steps), "tuck": np.zeros(steps)}
    scale = np.array([manner.opening, manner.spread, manner.rounding, 1.0, 1.0])
    for phoneme in phonemes:
        parts = visemes(phoneme.symbol)
        edges = np.linspace(phoneme.start, phoneme.end, len(parts) + 1) - manner.lead
        for part, start, end in zip(parts, edges[:-1], edges[1:], strict=True):
            here = (clock >= start) & (clock < max(end, start + 0.02))
            wobble = 1.0 + manner.variation * rng.standard_normal(5)
            targets[here] = np.array(part.values()) * scale * wobble
            weights[here] = part.weight
            if part.kind:
                _press(bumps[part.kind], clock, start, end, part.kind)
    kernel = np.exp(-0.5 * (np.arange(-30, 31) / (manner.smoothing * _STEPS_PER_SECOND)) ** 2)
    total = np.convolve(weights, kernel, mode="same")
    smooth = np.stack(
        [np.convolve(targets[:, column] * weights, kernel, mode="same") / total for column in range(5)], axis=1
    )
    track = np.column_stack([smooth, bumps["contact"], bumps["tuck"]])
    return np.stack([np.interp(times, clock, column) for column in np.clip(track, 0.0, 1.0).T], axis=1)


def _press(bump: np.ndarray, clock: np.ndarray, start: float, end: float, kind: str) -> None:
    """Raise ``bump`` to 1 for the contact from ``start`` to ``end``, at least 55 ms, with ramps of 55 ms."""
    if kind == "contact":
        end = max(min(end, start + 0.14), start + 0.025)
        start = min(start - 0.01, end - 0.055)
    else:
        start = min(start, end - 0.055)
    away = np.maximum(np.maximum(start - clock, clock - end), 0.0) / 0.055
    np.maximum(bump, np.where(away < 1.0, 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1.0)), 0.0), out=bump)
