"""What the processes do, in this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mome import MomeError, Rates
from mome.clip import Clip, length
from mome.media.decode import probe
from mome.serving.model import Batch, Model, Setup
from mome.serving.reading import NAME, Reader, Step
from mome.serving.request import Limits, Refusal
from mome.text.transcript import Transcript
from tests.media.builders import write

BOTH, SOUND = Rates(4, 2), Rates(4, None)


@pytest.fixture(scope="module")
def reader(tiny_model) -> Reader:
    return Reader(str(tiny_model), Limits(seconds=30, pixels=200 * 200))


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(Setup(str(tiny_model), "cpu"))


def step(
    path: Path,
    number: int = 0,
    rates: Rates = SOUND,
    skip: int = 0,
    forget: tuple[int, ...] = (),
    noise: float | None = None,
) -> Step:
    return Step(number, path, rates, None, noise, skip, forget)


def wave(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32)


def clip(seconds: float, sees: bool = True) -> Clip:
    mouth = np.full((round(25 * seconds), 96, 96), 90, np.uint8) if sees else None
    return Clip(wave(seconds), mouth, length(wave(seconds), mouth))


def test_a_short_recording_is_read_at_once(reader, tmp_path):
    film = write(tmp_path / "a.mkv", [np.full((96, 96), 9, np.uint8)] * 30, wave=wave(1.2))
    read = reader(step(film, rates=BOTH))
    assert [part.start for part in read.parts] == [0.0]
    assert read.parts[0].clip.path is None
    assert (read.end.hears, read.end.sees, read.end.seconds) == (True, True, pytest.approx(1.2))


def test_a_long_recording_is_read_part_by_part(reader, tmp_path):
    long = write(tmp_path / "a.wav", wave=wave(25.0))  # the model's window is 10 s
    found, end, number = [], None, 0
    while end is None:
        read = reader(step(long, 1))
        number += 1
        found += read.parts
        end = read.end
    assert number > 2
    assert sum(part.clip.seconds for part in found) == pytest.approx(25.0, abs=0.1)
    assert reader(step(long, 2, skip=1)).parts[0].start == found[1].start  # as after another process's end
    reader(step(long, 3, forget=(2,)))
    assert set(reader._open) == {3}


def test_noise_is_mixed_in_at_the_level_asked_for(reader, tmp_path):
    film = write(tmp_path / "a.wav", wave=wave(1.2))
    clean, noisy, again = (
        reader(step(film, number, noise=noise)).parts[0].clip.audio for number, noise in ((4, None), (5, 6.0), (6, 6.0))
    )
    power = np.mean(clean.astype(float) ** 2) / np.mean((noisy.astype(float) - clean) ** 2)
    assert 10 * np.log10(power) == pytest.approx(6.0, abs=0.01)
    assert np.array_equal(noisy, again)
    silent = write(tmp_path / "b.mkv", [np.full((96, 96), 9, np.uint8)] * 30, wave=np.zeros(19_200, np.float32))
    parts = reader(step(silent, 7, rates=BOTH, noise=0.0)).parts
    assert not any(part.clip.audio.any() for part in parts)


def test_limits_and_names(reader, tmp_path):
    cases: list[tuple[Path, int, str]] = [
        (write(tmp_path / "a.wav", wave=wave(31.0)), 413, "at most 30 s"),
        (write(tmp_path / "b.mkv", [np.zeros((202, 202), np.uint8)] * 3, wave=wave(0.2)), 413, "at most 40000"),
        (tmp_path / "none.wav", 400, "cannot be read"),
        (write(tmp_path / "c.mkv", [np.zeros((96, 96), np.uint8)] * 3), 400, "no sound"),
    ]
    for number, (path, status, message) in enumerate(cases, 10):
        with pytest.raises(Refusal, match=message) as caught:
            reader(step(path, number))
        assert caught.value.status == status
        assert caught.value.message.startswith(NAME)
        assert str(tmp_path) not in caught.value.message


def test_a_file_that_names_another_is_not_followed(reader, tmp_path):
    """Lists that FFmpeg follows by itself, as the names in them are those of files beside them."""
    write(tmp_path / "secret.wav", wave=wave(1.0))
    write(tmp_path / "secret.ts", wave=wave(1.0), rate=48_000, audio_codec="aac")
    for number, (name, text) in enumerate(
        {
            "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nsecret.ts\n#EXT-X-ENDLIST\n",
            "a.txt": "ffconcat version 1.0\nfile secret.wav\n",
        }.items(),
        20,
    ):
        path = tmp_path / name
        path.write_text(text)
        with av.open(path) as followed:
            assert sum(frame.samples for frame in followed.decode(audio=0)) >= 16_000
        with pytest.raises(MomeError, match="cannot be opened as audio or video"):
            probe(path)
        with pytest.raises(Refusal, match="cannot be opened as audio or video"):
            reader(step(path, number))


def test_a_batch_of_mixed_rates_is_what_each_is_alone(model):
    clips = [clip(1.2), clip(2.0, sees=False), clip(1.0), clip(1.5)]
    rates = [BOTH, SOUND, Rates(None, 5), Rates(16, 5)]
    done = model(Batch(clips, rates, None, False))
    for one, rate, outcome in zip(clips, rates, done.outcomes, strict=True):
        (alone,) = model(Batch([one], [rate], None, False)).outcomes
        assert isinstance(outcome, Transcript)
        assert isinstance(alone, Transcript)
        assert (outcome.text, outcome.rates, outcome.tokens) == (alone.text, rate, alone.tokens)


def test_a_clip_that_fails_does_not_take_others_with_it(model):
    done = model(Batch([clip(1.2), clip(0.01)], [SOUND, Rates(16, None)], None, True))
    first, second = done.outcomes
    assert isinstance(first, Transcript)
    assert isinstance(second, MomeError)
    assert "too little for audio rate 16" in str(second)


def test_what_a_model_says_of_itself(model):
    facts = model.facts
    assert facts.order[0] == Rates(4, 2)
    assert [rates.task for rates in facts.order[:4]] == ["avsr"] * 4
    assert set(facts.order) == set(facts.rate_set.rates())
    assert facts.costs == {}


def test_costs_of_all_rates_are_measured(tiny_model):
    facts: Any = Model(Setup(str(tiny_model), "cpu", measure=True)).facts
    assert set(facts.costs) == set(facts.order)
    assert min(facts.costs.values()) > 0
