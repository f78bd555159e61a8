from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mome
from mome import MomeError, Transcriber
from mome.clip import SAMPLE_RATE
from mome.decoding.live import Heard, Listener
from mome.media import load_clip

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
TEXT = "bin blue at f two now"
pytestmark = pytest.mark.speech


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return mome.load()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Two sentences with a second between, and two seconds of quiet."""
    sentence = load_clip(CLIP, video=False).audio
    assert sentence is not None
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    return np.concatenate([sentence, quiet[:SAMPLE_RATE], sentence, quiet])


def heard(listener: Listener, sound: np.ndarray, block: int) -> list[tuple[float, Heard]]:
    """What was heard, and the seconds of sound that had arrived by then."""
    found = []
    for start in range(0, len(sound), block):
        now = min(start + block, len(sound)) / SAMPLE_RATE
        found += [(now, one) for one in listener.feed(sound[start : start + block])]
    return found + [(len(sound) / SAMPLE_RATE, one) for one in listener.finish()]


def test_partial_text_then_final_text_at_the_pause(transcriber, sound):
    found = heard(Listener(transcriber, "4,-", every=0.5), sound, 1600)
    final = [(now, one.segment) for now, one in found if one.final]
    assert [segment.text for _, segment in final] == [TEXT, TEXT]
    for now, segment in final:
        assert segment.end <= now <= segment.end + 0.7  # the pause that ends it, with the padding inside
    partial = [one.segment for _, one in found if not one.final]
    assert len(partial) >= 4
    assert all(segment.text for segment in partial)
    assert any(segment.text.startswith("bin blue") and segment.text != TEXT for segment in partial)
    assert {one.segment.start for _, one in found} == {segment.start for _, segment in final}
    assert [one.final for _, one in found].count(True) == 2
    assert found[0][1].to_dict().keys() == {"start", "end", "text", "final"}


@pytest.mark.parametrize("block", [100, 7777, 10**6])
def test_final_text_does_not_depend_on_how_the_sound_arrives(transcriber, sound, block):
    whole = [one.segment for _, one in heard(Listener(transcriber, every=100), sound, 1600)]
    again = [one.segment for _, one in heard(Listener(transcriber, every=100), sound, block)]
    assert [(s.start, s.end, s.text) for s in again] == [(s.start, s.end, s.text) for s in whole]


def test_quiet_says_nothing_and_is_forgotten(transcriber):
    listener = Listener(transcriber)
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    for _ in range(20):
        assert not list(listener.feed(quiet))
    assert not list(listener.finish())
    assert sum(map(len, listener._sound.blocks)) <= 3 * SAMPLE_RATE


def test_what_is_not_possible(transcriber):
    for rates in ("4,2", "-,2"):
        with pytest.raises(MomeError, match="rates of asr"):
            Listener(transcriber, rates)
    with pytest.raises(MomeError, match="rates"):
        Listener(transcriber, "5,-")
    for every in (0, -1, float("nan")):
        with pytest.raises(MomeError, match="every"):
            Listener(transcriber, every=every)
