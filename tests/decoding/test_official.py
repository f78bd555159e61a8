"""Where the official arithmetic and bfloat16 meet: loading tells the processor the model's precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mome
from mome.encoders.whisper import log_mel
from mome.errors import MomeError
from mome.media import Clip
from mome.model.compat import official_log_mel, official_sound
from mome.rates import Rates
from tests.decoding.window import window_model

CLIP = Clip((0.1 * np.random.default_rng(0).standard_normal(17_920)).astype(np.float32), None, 1.12)


@pytest.fixture(scope="module")
def published(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can follow the official arithmetic."""
    return window_model(tiny_model, tmp_path_factory.mktemp("published") / "model")


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_waveform_is_rounded_only_where_the_official_arithmetic_runs_in_bfloat16(
    published, monkeypatch, compat, dtype
):
    transcriber = mome.load(published, compat=compat, dtype=dtype)
    model, processor = transcriber.model, transcriber.processor
    given: dict[str, Tensor] = {}
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda **inputs: given.update(inputs) or encode(**inputs))
    assert transcriber.transcribe(CLIP, "4,-", max_new_tokens=2).text
    rounded = official_log_mel(CLIP.audio, processor.feature_extractor)
    plain, _ = log_mel(CLIP.audio, processor.feature_extractor, "window")
    assert not np.array_equal(rounded, plain)
    expected = rounded if (compat, dtype) == ("official", "bfloat16") else plain
    assert torch.equal(given["input_features"][0].cpu(), torch.from_numpy(expected))
    assert given["input_features_mask"].sum() == 2 * (55 if compat else 56)


def clip(seconds: float, frames: int | None) -> Clip:
    sound = (0.1 * np.random.default_rng(1).standard_normal(round(16_000 * seconds))).astype(np.float32)
    mouth = None if frames is None else np.full((frames, 96, 96), 99, np.uint8)
    return Clip(sound, mouth, seconds)


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("frames", [20, 30])
@pytest.mark.parametrize("rates", [["4,2"], ["4,-", "4,2"], ["4,-"]])
def test_sound_beside_video_is_as_long_as_the_video(published, monkeypatch, compat, frames, rates):
    transcriber = mome.load(published, compat=compat)
    waves: list[np.ndarray] = []
    audio = transcriber.processor.audio
    monkeypatch.setattr(transcriber.processor, "audio", lambda wave: waves.append(wave) or audio(wave))
    one = clip(1.0, frames)
    made = transcriber.transcribe_rates(one, [Rates.parse(rate) for rate in rates], max_new_tokens=2)
    assert len(made) == len(rates)
    cut = compat is not None and "4,2" in rates
    assert np.array_equal(waves[0], official_sound(one.audio, frames) if cut else one.audio)
    transcriber.processor([one], video="4,2" in rates)
    assert np.array_equal(waves[0], waves[1])


def test_the_shortest_sound_is_long_enough_for_its_least_tokens(published):
    short = clip(0.3, None)
    assert mome.load(published, compat="official").transcribe(short, "16,-", max_new_tokens=2).tokens.audio == 1
    with pytest.raises(MomeError, match=r"0\.30 s of audio, too little for audio rate 16"):
        mome.load(published).transcribe(short, "16,-", max_new_tokens=2)


def test_a_model_that_is_cast_later_tells_its_processor(published):
    transcriber = mome.load(published, compat="official")
    transcriber.model.to(torch.bfloat16)
    transcriber.transcribe(CLIP, "4,-", max_new_tokens=2)
    assert transcriber.processor.precision == torch.bfloat16


def test_a_short_clip_is_refused_beside_a_long_one_too(published):
    transcriber = mome.load(published, compat="official")
    for clips in ([clip(0.08, 2)], [clip(1.2, 30), clip(0.08, 2)]):
        with pytest.raises(MomeError, match=r"0\.04 s of video|0\.08 s of video, too little for video rate 5"):
            transcriber.transcribe_batch(clips, [Rates(16, 5)], max_new_tokens=2)
