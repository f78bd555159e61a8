"""Untrained rates: which projector they take, and what their tokens are."""

from __future__ import annotations

import pytest
import torch

import mome
from mome.analysis.rates import check_possible, default_rates, finest_rates, nearest, nearest_rates, repooled
from mome.errors import MomeError
from mome.features import Features
from mome.model import MomeForSpeechRecognition
from mome.model.model import EncodedClips
from mome.rates import Rates, RateSet
from tests.tiny import tiny_config, tiny_tokenizer

SET = RateSet((4, 16), (2, 5))


@pytest.mark.parametrize(("rate", "known"), [(1, 4), (4, 4), (7, 4), (8, 4), (9, 16), (16, 16), (40, 16)])
def test_nearest_in_the_ratio_and_the_finer_of_two(rate, known):
    assert nearest(rate, (4, 16)) == known


def test_pairs():
    assert nearest_rates(Rates(9, 3), SET) == Rates(16, 2)
    assert nearest_rates(Rates(None, 4), SET) == Rates(None, 5)
    assert finest_rates(Rates(12, 6), SET) == Rates(4, 2)
    assert finest_rates(Rates(12, 5), SET) is None, "5 is no multiple of 2"
    assert finest_rates(Rates(16, None), SET) == Rates(4, None)


def test_default_rates_have_the_trained_ones_and_go_beyond():
    assert default_rates(SET) == [Rates(4, 2), Rates(8, 3), Rates(16, 5), Rates(24, 8), Rates(32, 10)]
    assert default_rates(RateSet((4,), (), ("asr",))) == [Rates(4, None), Rates(6, None), Rates(8, None)]


@pytest.fixture(scope="module")
def model() -> MomeForSpeechRecognition:
    torch.manual_seed(0)
    return MomeForSpeechRecognition(tiny_config(tiny_tokenizer()))


@pytest.fixture(scope="module")
def encoded() -> EncodedClips:
    torch.manual_seed(1)
    return EncodedClips(
        Features(torch.randn(2, 50, 32), torch.tensor([50, 40])),
        Features(torch.randn(2, 25, 32), torch.tensor([25, 20])),
    )


@torch.no_grad()
def test_tokens_by_the_nearest_projector_and_by_averaging(model, encoded):
    fed, asked = Rates(4, 2), Rates(8, 2)
    trained = model.connect(encoded, [fed] * 2)
    frames = encoded.audio.frames
    with repooled(model, asked, fed, "nearest"):
        tokens = model.connect(encoded, [fed] * 2)
    mean = frames[:, :48].reshape(2, 6, 8, 32).mean(2)
    for clip, count in enumerate((6, 5)):
        expected = model.connector.audio[0](mean[clip, :count])
        torch.testing.assert_close(tokens.audio[clip], expected)
        torch.testing.assert_close(tokens.video[clip], trained.video[clip], msg="its rate is trained")
    with repooled(model, asked, fed, "pooled"):
        tokens = model.connect(encoded, [fed] * 2)
    torch.testing.assert_close(tokens.audio[1], trained.audio[1].reshape(5, 2, -1).mean(1))
    torch.testing.assert_close(model.connect(encoded, [fed] * 2).audio[0], trained.audio[0])


@torch.no_grad()
def test_shared_projectors_are_pooled_as_at_a_trained_rate(encoded):
    config = tiny_config(tiny_tokenizer())
    config.connector = {"type": "shared"}
    model = MomeForSpeechRecognition(config)
    at_16 = model.connect(encoded, [Rates(16, 2)] * 2).audio[0]
    with repooled(model, Rates(16, 2), Rates(4, 2), "nearest"):
        torch.testing.assert_close(model.connect(encoded, [Rates(4, 2)] * 2).audio[0], at_16)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"connector": {"type": "mixture"}}, "connector mixture"),
        ({"compression": "stack"}, "another width at 8 than at 4"),
    ],
)
def test_what_makes_no_sense_is_refused(options, hint):
    config = tiny_config(tiny_tokenizer())
    for name, value in options.items():
        setattr(config, name, value)
    model = MomeForSpeechRecognition(config)
    with pytest.raises(MomeError, match=hint):
        check_possible(model, [Rates(4, 2), Rates(8, 2)])


def test_the_public_rate_set_stays_strict(tiny_model):
    with pytest.raises(MomeError, match="not in this model's rate set"):
        mome.load(str(tiny_model)).model.rate_set.check(Rates(8, 2))
