"""Pronunciations of GRID's 51 words (British, ARPAbet-like) and frame labels made from word times."""

from __future__ import annotations

import numpy as np

PRONUNCIATIONS = {
    "bin": "b ih n", "lay": "l ey", "place": "p l ey s", "set": "s eh t",
    "blue": "b l uw", "green": "g r iy n", "red": "r eh d", "white": "w ay t",
    "at": "ae t", "by": "b ay", "in": "ih n", "with": "w ih dh",
    "a": "ey", "b": "b iy", "c": "s iy", "d": "d iy", "e": "iy", "f": "eh f", "g": "jh iy",
    "h": "ey ch", "i": "ay", "j": "jh ey", "k": "k ey", "l": "eh l", "m": "eh m", "n": "eh n",
    "o": "ow", "p": "p iy", "q": "k y uw", "r": "aa", "s": "eh s", "t": "t iy", "u": "y uw",
    "v": "v iy", "x": "eh k s", "y": "w ay", "z": "z eh d",
    "zero": "z ih r ow", "one": "w ah n", "two": "t uw", "three": "th r iy", "four": "f ao",
    "five": "f ay v", "six": "s ih k s", "seven": "s eh v n", "eight": "ey t", "nine": "n ay n",
    "again": "ah g eh n", "now": "n aw", "please": "p l iy z", "soon": "s uw n",
}  # fmt: skip

WORDS = tuple(sorted(PRONUNCIATIONS))
PHONEMES = tuple(sorted({p for spelling in PRONUNCIATIONS.values() for p in spelling.split()}))
SILENCE = 0  # index 0 is silence among the frame labels and the blank of CTC
IGNORED = -100


def phoneme_ids(text: str) -> list[int]:
    """Phoneme numbers (from 1) of a GRID sentence, the target of CTC."""
    return [1 + PHONEMES.index(p) for word in text.split() for p in PRONUNCIATIONS[word].split()]


def frame_labels(words: list[tuple[float, float, str]], frames: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Word and phoneme numbers of each frame, phonemes spread evenly over their word.

    Args:
        words: start and end in seconds, and the word.
        frames: how many labels.
        rate: frames a second.

    Returns:
        two ``(frames,)`` int64 arrays, 0 where nobody speaks.
    """
    word_labels = np.zeros(frames, dtype=np.int64)
    phoneme_labels = np.zeros(frames, dtype=np.int64)
    times = (np.arange(frames) + 0.5) / rate
    for start, end, word in words:
        inside = (times >= start) & (times < end)
        spelling = [1 + PHONEMES.index(p) for p in PRONUNCIATIONS[word].split()]
        place = (times[inside] - start) / max(end - start, 1e-6) * len(spelling)
        word_labels[inside] = 1 + WORDS.index(word)
        phoneme_labels[inside] = np.array(spelling)[np.minimum(place.astype(int), len(spelling) - 1)]
    return word_labels, phoneme_labels
