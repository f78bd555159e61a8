"""Synthesize a clip of a GRID sentence: speech and pictures of the lips that match it, from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from scipy import signal

from mome.clip import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME
from mome.errors import MomeError
from mome.files import atomic_write
from mome.synthesis.drawing import draw_mouth, random_face
from mome.synthesis.espeak import VOICES, Phoneme, check_voice, speak
from mome.synthesis.visemes import Manner, lip_track
from mome.text.grid import check_sentence

SHORTEST, LONGEST = 2.0, 3.6
"""Bounds of a clip's length in seconds."""

_AUDIO_BITS, _VIDEO_BITS = 96_000, 400_000

_SPELLED = {"a": "[['eI]]", "z": "[[z'Ed]]"}


@dataclass(frozen=True)
class SyntheticClip:
    """A synthesized clip; all times are in seconds from its start.

    Attributes:
        audio: ``(samples,)`` float32 at 16 kHz; ``samples == 640 * frames``.
        mouth: ``(frames, 96, 96)`` uint8 at 25 frames a second.
        phonemes: the phonemes of the spoken part.
        words: ``(start, end, word)`` of each word.
        text: the sentence.
        voice: one of :data:`VOICES`.
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
    """Speak the GRID sentence ``text`` and draw the mouth that speaks it.

    The same arguments give the same clip, bit for bit.

    Args:
        text: the sentence.
        voice: one of :data:`VOICES`; by default the seed draws one.
        seed: draws the speed, pitch and pauses of the speech, the silence around it, the room and the face. It does so
            independently of the sentence: the same seed is the same talker.

    Raises:
        MomeError: the sentence is not in the grammar, the voice is unknown, the seed is negative, or
            ``espeakng-loader`` is missing.
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
    speech = _resampled(utterance.samples, utterance.sample_rate)
    before, frames = _silence_around(len(speech) / SAMPLE_RATE, speaking)
    audio = np.zeros(frames * SAMPLES_PER_FRAME)
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
    mouth = draw_mouth(random_face(looking), lip_track(phonemes, times, manner, acting))
    return SyntheticClip(_recorded(audio, recording), mouth, phonemes, words, text, voice)


def _silence_around(spoken: float, rng: np.random.Generator) -> tuple[float, int]:
    """Draw the seconds of silence before ``spoken`` seconds of speech, and the clip's length in frames."""
    before, after = float(rng.uniform(0.15, 0.8)), float(rng.uniform(0.15, 0.8))
    length = min(max(before + spoken + after, SHORTEST), LONGEST)
    before = max(min(before, length - spoken - 0.1), 0.05)
    return before, math.ceil(round(length * FRAME_RATE, 6))


def _resampled(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample float samples at ``sample_rate`` Hz to 16 kHz, float64."""
    common = math.gcd(SAMPLE_RATE, sample_rate)
    resampled: np.ndarray = signal.resample_poly(
        samples.astype(np.float64), SAMPLE_RATE // common, sample_rate // common
    )
    return resampled


def _recorded(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a random microphone and room to ``speech`` (float, 16 kHz, with the silence around it).

    Returns float32 of the same length, without delay, with a peak below 1.
    """
    tones = np.linspace(0.0, 1.0, 9)
    gains = 10 ** (rng.uniform(-4.0, 4.0, len(tones)) / 20)
    equaliser = signal.firwin2(65, tones, gains)
    sound = signal.fftconvolve(speech, equaliser, mode="full")[32 : 32 + len(speech)]
    if rng.random() < 0.6:
        seconds = rng.uniform(0.08, 0.3)
        tail = rng.standard_normal(int(seconds * SAMPLE_RATE))
        tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail))
        tail[: int(0.002 * SAMPLE_RATE)] = 0.0
        tail *= 10 ** (rng.uniform(-20.0, -9.0) / 20) / np.sqrt(np.sum(tail**2))
        sound = sound + signal.fftconvolve(sound, tail, mode="full")[: len(sound)]
    peak = float(np.max(np.abs(sound)))
    sound = sound * (10 ** (rng.uniform(-14.0, -1.5) / 20) / max(peak, 1e-9))
    loudness = float(np.sqrt(np.mean(sound**2)))
    hiss = rng.standard_normal(len(sound))
    hum = signal.lfilter([1.0], [1.0, -0.97], hiss)
    share = rng.uniform(0.0, 1.0)
    floor = (1 - share) * hiss / np.std(hiss) + share * hum / np.std(hum)
    floor *= loudness * 10 ** (-rng.uniform(28.0, 50.0) / 20) / max(float(np.std(floor)), 1e-9)
    recorded: np.ndarray = np.clip(sound + floor, -0.999, 0.999).astype(np.float32)
    return recorded


def write_clip(clip: SyntheticClip, path: Path) -> None:
    """Write ``clip`` as MP4: H.264 (MPEG-4 if PyAV has no x264) at 25 fps, and AAC mono at 16 kHz.

    The file is written completely or not at all. Raises :class:`MomeError` if ``path`` is not an MP4 file name or
    cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in {".mp4", ".m4v", ".mov"}:
        raise MomeError(f"'{path}' is not an MP4 file name: a clip is written as .mp4")
    try:
        with atomic_write(path) as temporary:
            _encode(clip, temporary)
    except av.error.FFmpegError as error:
        raise MomeError(f"{path} cannot be written: {error}") from error


def _encode(clip: SyntheticClip, path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        picture = cast(av.VideoStream, container.add_stream(codec, rate=FRAME_RATE))
        picture.width, picture.height, picture.pix_fmt = clip.mouth.shape[2], clip.mouth.shape[1], "yuv420p"
        if codec == "libx264":
            picture.options = {"crf": "14", "preset": "veryfast", "bf": "0", "threads": "1"}
        else:
            picture.bit_rate = _VIDEO_BITS
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sound.bit_rate = _AUDIO_BITS
        # One thread each: with several, the file would depend on the order in which they finish.
        picture.codec_context.thread_count = sound.codec_context.thread_count = 1

        for index, grey in enumerate(clip.mouth):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(picture.encode(frame))
            block = clip.audio[None, index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
            block = np.ascontiguousarray(block, dtype=np.float32)
            samples = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = SAMPLE_RATE, index * SAMPLES_PER_FRAME
            samples.time_base = Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(samples))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
