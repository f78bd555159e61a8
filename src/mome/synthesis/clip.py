"""A talking mouth for a GRID sentence: speech and matching lip pictures, made from nothing but a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mome.errors import MomeError
from mome.media import FRAME_RATE, SAMPLE_RATE
from mome.synthesis.espeak import VOICES, Phoneme, check_voice, speak
from mome.synthesis.mouth import draw_mouth
from mome.synthesis.room import record, resample
from mome.synthesis.talker import random_face
from mome.synthesis.visemes import Manner, lip_track
from mome.text.grid import check_sentence

SHORTEST, LONGEST = 2.0, 3.6
"""The bounds of a synthetic clip's length in seconds."""

_SPELLED = {"a": "[['eI]]", "z": "[[z'Ed]]"}


@dataclass(frozen=True)
class SyntheticClip:
    """One synthesized clip: ``audio`` float32 ``(samples,)`` at 16 kHz, ``mouth`` uint8 ``(frames, 96, 96)``.

    Frames come at 25 a second and ``samples == 640 * frames``.  ``phonemes`` cover the spoken part and
    ``words`` are ``(start, end, word)``, all times in seconds from the start of the clip.
    """

    audio: np.ndarray
    mouth: np.ndarray
    phonemes: tuple[Phoneme, ...]
    words: tuple[tuple[float, float, str], ...]
    text: str
    voice: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.audio) / SAMPLE_RATE


def synthesize(text: str, voice: str | None = None, seed: int = 0) -> SyntheticClip:
    """Speak the GRID sentence ``text`` and draw the mouth that says it.

    ``voice`` is one of :data:`VOICES`; without it the seed draws one.  The seed also draws how it is spoken
    (speed, pitch, pauses), the silence around it, the room and the face, whatever the sentence: the same
    seed is the same talker.  The same arguments give the same clip, bit for bit.  Raises
    :class:`MomeError` for a sentence outside the grammar, an unknown voice, a negative seed or a missing
    ``espeakng-loader``.
    """
    text = check_sentence(text)
    if seed < 0:
        raise MomeError(f"seed {seed} is not possible: a seed is a whole number from 0 up")
    streams = np.random.SeedSequence(seed).spawn(5)
    casting, speaking, acting, looking, recording = (np.random.default_rng(stream) for stream in streams)
    drawn = VOICES[int(casting.integers(len(VOICES)))]
    voice = drawn if voice is None else check_voice(voice)

    spoken = [_SPELLED.get(word, word) for word in text.split()]
    utterance = speak(
        spoken,
        voice,
        rate=int(speaking.integers(125, 196)),
        pitch=int(speaking.integers(35, 66)),
        pitch_range=int(speaking.integers(30, 76)),
        word_gap=int(speaking.choice([0, 0, 0, 1, 2, 4])),
    )
    speech = resample(utterance.samples, utterance.sample_rate)
    before, frames = _room_around(len(speech) / SAMPLE_RATE, speaking)
    audio = np.zeros(frames * SAMPLE_RATE // FRAME_RATE)
    first = round(before * SAMPLE_RATE)
    speech = speech[: len(audio) - first]
    audio[first : first + len(speech)] = speech

    shift = first / SAMPLE_RATE
    phonemes = tuple(
        replace(phoneme, start=phoneme.start + shift, end=phoneme.end + shift) for phoneme in utterance.phonemes
    )
    words = tuple(
        (start + shift, end + shift, word) for (start, end), word in zip(utterance.words, text.split(), strict=True)
    )
    manner = Manner(
        opening=float(acting.uniform(0.8, 1.12)),
        spread=float(acting.uniform(0.75, 1.1)),
        rounding=float(acting.uniform(0.8, 1.08)),
        smoothing=float(acting.uniform(0.024, 0.036)),
        lead=float(acting.uniform(0.0, 0.02)),
        variation=0.07,
    )
    times = (np.arange(frames) + 0.5) / FRAME_RATE
    mouth = draw_mouth(random_face(looking), lip_track(phonemes, times, manner, acting), FRAME_RATE)
    return SyntheticClip(record(audio, recording), mouth, phonemes, words, text, voice)


def _room_around(spoken: float, rng: np.random.Generator) -> tuple[float, int]:
    """Draw the silence before ``spoken`` seconds of speech, and the clip's length in frames."""
    before, after = float(rng.uniform(0.15, 0.8)), float(rng.uniform(0.15, 0.8))
    length = min(max(before + spoken + after, SHORTEST), LONGEST)
    before = max(min(before, length - spoken - 0.1), 0.05)
    return before, math.ceil(round(length * FRAME_RATE, 6))
