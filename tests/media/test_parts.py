from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mome
from mome.clip import SAMPLE_RATE, Clip, length
from mome.media import load_clip, parts
from mome.media.parts import Whole
from mome.media.parts import parts as cut
from mome.media.speech import FRAME, SpeechDetector

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
pytestmark = pytest.mark.speech


@pytest.fixture(scope="module")
def talk() -> tuple[np.ndarray, np.ndarray]:
    """A sentence: sound and mouth of equal length."""
    clip = load_clip(CLIP)
    assert clip.audio is not None
    assert clip.mouth is not None
    samples = len(clip.mouth) * SAMPLE_RATE // 25
    return np.pad(clip.audio, (0, samples))[:samples], clip.mouth


def whole(sound: np.ndarray | None, mouth: np.ndarray | None) -> Whole:
    return Whole(Clip(sound, mouth, length(sound, mouth)))


def pause(seconds: float) -> np.ndarray:
    return 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)


def still(mouth: np.ndarray, seconds: float) -> np.ndarray:
    return np.repeat(mouth[-1:], round(25 * seconds), axis=0)


def babble(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Many voices at once."""
    rng, samples = np.random.default_rng(0), round(seconds * SAMPLE_RATE)
    voices = [np.roll(np.resize(sound, samples), rng.integers(samples)) for _ in range(24)]
    mixed: np.ndarray = np.sum(voices, axis=0, dtype=np.float32)
    return mixed * (0.1 / mixed.std())


def test_sentences_with_pauses_are_parts(talk):
    sound, _ = talk
    gap = pause(1.2)
    joined = np.concatenate([sound, gap, sound, gap, sound])
    found = list(cut(whole(joined, None), 4.0))
    every = (len(sound) + len(gap)) / SAMPLE_RATE
    assert len(found) == 3
    for number, part in enumerate(found):
        assert number * every <= part.start + 0.03
        assert part.start + part.clip.seconds <= (number + 1) * every
        assert part.clip.mouth is None
        assert part.no_speech < 0.1
        at = round(part.start * SAMPLE_RATE)
        np.testing.assert_array_equal(part.clip.audio, joined[at : at + len(part.clip.audio)])


def test_a_part_has_its_own_mouth(talk):
    sound, mouth = talk
    shown = np.concatenate([mouth, still(mouth, 1.2), mouth])
    found = list(cut(whole(np.concatenate([sound, pause(1.2), sound]), shown), 4.0))
    assert len(found) == 2
    for part in found:
        at = round(part.start * 25)
        np.testing.assert_array_equal(part.clip.mouth, shown[at : at + len(part.clip.mouth)])
        assert abs(len(part.clip.mouth) / 25 - len(part.clip.audio) / SAMPLE_RATE) < 0.05
        assert not part.still


@pytest.mark.parametrize("kind", ["silence", "faint noise", "tone", "loud noise"])
def test_sounds_without_speech_have_no_parts(talk, kind):
    at = np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    sound = {
        "silence": np.zeros(len(at), np.float32),
        "faint noise": pause(8.0),
        "tone": np.sin(2 * np.pi * 440 * at).astype(np.float32) / 3,
        "loud noise": 3000 * pause(8.0) / 3,
    }[kind]
    assert not list(cut(whole(sound, None), 4.0))
    assert not list(cut(whole(sound, still(talk[1], 8.0)), 4.0))


def test_a_closed_mouth_in_babble_says_nothing_and_a_moving_one_does(talk):
    sound, mouth = talk
    crowd = babble(sound, 6.0)
    assert list(cut(whole(crowd, None), 4.0))  # the sound alone cannot tell
    assert not list(cut(whole(crowd, still(mouth, 6.0)), 4.0))
    shown = np.concatenate([still(mouth, 2.0), mouth, still(mouth, 2.0)])
    (part,) = cut(whole(crowd[: len(shown) * 640], shown), 4.0)
    assert 1.5 < part.start < 3
    assert part.start + part.clip.seconds < len(shown) / 25 - 1


def test_lips_tell_where_the_sound_is_gone(talk):
    sound, mouth = talk
    gone = np.zeros(4 * SAMPLE_RATE, np.float32)
    shown = np.concatenate([mouth, still(mouth, 1.6), mouth, still(mouth, 3)])
    first, second = cut(whole(np.concatenate([sound, gone, gone])[: len(shown) * 640], shown), 4.0)
    assert first.clip.audio is not None
    assert second.clip.audio is None
    assert second.no_speech is None
    assert second.start >= len(mouth) / 25 + 1


def test_lips_alone(talk):
    _, mouth = talk
    shown = np.concatenate([mouth, still(mouth, 1.6), mouth])
    found = list(cut(whole(None, shown), 4.0))
    assert [part.clip.audio for part in found] == [None, None]
    assert found[1].start > len(mouth) / 25
    assert not list(cut(whole(None, still(mouth, 5)), 4.0))
    assert all(part.clip.seconds <= 1.0 for part in cut(whole(None, shown), 1.0))


def test_lips_alone_without_a_pause_have_parts_that_overlap(talk):
    _, mouth = talk
    said = mouth[15:50]
    found = list(cut(whole(None, np.concatenate([said, said[::-1]] * 3)), 2.0))
    assert len(found) > 2
    assert [part.continued for part in found] == [True] * (len(found) - 1) + [False]
    assert found[0].repeats == 0
    for before, after in pairwise(found):
        assert after.repeats == pytest.approx(before.start + before.clip.seconds - after.start, abs=0.05)
        assert 0.3 < after.repeats < 0.5


def test_parts_are_never_longer_than_asked(talk):
    sound, mouth = talk
    for longest in (1.0, 1.7, 2.5):
        found = list(cut(whole(np.tile(sound, 4), np.tile(mouth, (4, 1, 1))), longest))
        assert all(part.clip.seconds <= max(longest, 1.0) + 0.05 for part in found)
        assert all(a.start + a.clip.seconds <= b.start + 0.55 for a, b in pairwise(found))


def test_memory_does_not_grow_with_length(monkeypatch):
    """One minute of noise and a still face, then two: the same peak."""
    monkeypatch.setattr(SpeechDetector, "of", lambda self, wave: np.zeros(len(wave) // FRAME, np.float32))

    class Endless:
        has_sound = has_mouth = True

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def sound(self) -> Iterator[np.ndarray]:
            for _ in range(round(self.seconds / 16)):
                yield np.full(16 * SAMPLE_RATE, 1e-2, np.float32)

        def mouth(self, start: float, end: float) -> np.ndarray | None:
            return np.zeros((round(end * 25) - round(start * 25), 96, 96), np.uint8)

    peaks = []
    for minutes in (1, 2):
        tracemalloc.start()
        assert not list(cut(Endless(60.0 * minutes), 4.0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_where_the_sound_cannot_tell(talk):
    rng, frames = np.random.default_rng(0), 300
    noise = rng.standard_normal(frames * FRAME).astype(np.float32)
    assert parts.deafness(np.zeros(frames * FRAME, np.float32), frames).all()
    assert parts.deafness(0.1 * noise, frames).all()
    assert not parts.deafness(1e-4 * noise, frames).any()
    speech = np.resize(talk[0], frames * FRAME)
    assert not parts.deafness(speech, frames).any()
    mixed = speech + noise * speech.std()
    assert parts.deafness(mixed, frames).mean() > 0.9
    assert parts.deafness(speech + noise * speech.std() / 100, frames).mean() < 0.1  # 40 dB
