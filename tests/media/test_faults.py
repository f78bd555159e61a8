"""Each fault does exactly what its name says, keeps lengths, and leaves the original alone."""

from __future__ import annotations

import numpy as np
import pytest

from mome.clip import Clip
from mome.errors import MomeError
from mome.media.faults import KINDS, Fault

FRAMES = 50


@pytest.fixture
def clip() -> Clip:
    """Frame k is grey k, and sample n is n + 1."""
    mouth = np.repeat(np.arange(FRAMES, dtype=np.uint8), 96 * 96).reshape(FRAMES, 96, 96)
    return Clip(np.arange(1, 32_001, dtype=np.float32), mouth, 2.0)


def shown(clip: Clip) -> list[int]:
    """The grey of each frame, which tells where it comes from."""
    assert clip.mouth is not None
    return clip.mouth[:, 0, 0].tolist()


AMOUNTS = {"frozen": 0.5, "dropped": 0.5, "occluded": 0.5, "blurred": 2, "shifted": 80, "silent": 0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_stay_and_the_original_too(clip, kind):
    audio, mouth = clip.audio.copy(), clip.mouth.copy()
    spoiled = Fault(kind, AMOUNTS[kind])(clip, 0, "a")
    assert (spoiled.audio.shape, spoiled.mouth.shape) == (audio.shape, mouth.shape)
    assert (spoiled.audio.dtype, spoiled.mouth.dtype, spoiled.seconds) == (np.float32, np.uint8, 2.0)
    np.testing.assert_array_equal(clip.audio, audio)
    np.testing.assert_array_equal(clip.mouth, mouth)
    spoils_audio = kind == "silent"
    assert np.array_equal(spoiled.audio, audio) != spoils_audio


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_the_modality_stays(kind):
    nothing = Clip(None, None, 0.0)
    assert Fault(kind, AMOUNTS[kind])(nothing, 0, "a") is nothing


def test_positive_shift_shows_the_lips_late(clip):
    assert shown(Fault("shifted", 80)(clip, 0, "a")) == [0, 0, *range(48)], "two frames of 40 ms"
    assert shown(Fault("shifted", -80)(clip, 0, "a")) == [*range(2, 50), 49, 49]
    assert shown(Fault("shifted", 4000)(clip, 0, "a")) == [0] * 50


def test_frozen(clip):
    assert shown(Fault("frozen", 0.5)(clip, 0, "a")) == [*range(25), *[24] * 25]
    assert shown(Fault("frozen", 1)(clip, 0, "a")) == [0] * 50


def test_dropped_frames_repeat_the_one_before(clip):
    places = shown(Fault("dropped", 0.3)(clip, 0, "a"))
    assert places[0] == 0
    lost = [k for k in range(FRAMES) if places[k] != k]
    assert len(lost) == 15
    assert all(places[k] == places[k - 1] for k in lost)
    assert set(lost) < {k for k, place in enumerate(shown(Fault("dropped", 0.6)(clip, 0, "a"))) if k != place}
    assert shown(Fault("dropped", 1)(clip, 0, "a")) == [0] * 50


def test_chance_depends_on_seed_and_id_alone(clip):
    drop = Fault("dropped", 0.5)
    assert shown(drop(clip, 3, "a")) == shown(drop(clip, 3, "a"))
    assert shown(drop(clip, 3, "a")) != shown(drop(clip, 4, "a"))
    assert shown(drop(clip, 3, "a")) != shown(drop(clip, 3, "b"))


def test_occluded_is_a_square_in_the_middle():
    mouth = np.zeros((2, 96, 96), np.uint8)
    mouth[1] = 100
    covered = Fault("occluded", 0.25)(Clip(None, mouth, 0.08), 0, "a").mouth
    expected = mouth.copy()
    expected[:, 36:60, 36:60] = 50
    np.testing.assert_array_equal(covered, expected)
    assert (Fault("occluded", 1)(Clip(None, mouth, 0.08), 0, "a").mouth == 50).all()


def test_blurred_spreads_a_point_as_a_gaussian():
    mouth = np.zeros((1, 96, 96), np.uint8)
    mouth[0, 46:51, 46:51] = 255
    seen = Fault("blurred", 3)(Clip(None, mouth, 0.04), 0, "a").mouth[0].astype(float)
    x = np.arange(96) - 48
    variance = (seen.sum(0) * x**2).sum() / seen.sum()
    assert variance == pytest.approx(3**2 + 2, rel=0.1), "sigma's and the square's own"


def test_silent(clip):
    audio = Fault("silent", 0.25)(clip, 0, "a").audio
    (places,) = np.nonzero(audio == 0)
    assert len(places) == 8000
    assert places[-1] - places[0] == 7999, "one stretch"
    assert not Fault("silent", 1)(clip, 0, "a").audio.any()


def test_names():
    assert Fault.parse("shifted=-80") == Fault("shifted", -80)
    assert [str(Fault(*pair)) for pair in (("frozen", 0.5), ("shifted", 40), ("shifted", -40), ("blurred", 2))] == [
        "frozen 50 %",
        "shifted +40 ms",
        "shifted −40 ms",
        "blurred 2 px",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("frozen", "frozen=0.5"), ("cracked=1", "choose from"), ("frozen=2", "0 to 1"), ("shifted=50", "40 ms")],
)
def test_what_is_not_possible(text, hint):
    with pytest.raises(MomeError, match=hint):
        Fault.parse(text)
