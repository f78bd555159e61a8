"""Joint decoding: prefix scores against the sum over all paths, and the head in a model."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.model.cost import inference_cost
from mome.model.ctc import JointScores
from mome.rates import Rates

from .build import END, make_config, make_model, raw_inputs

TOKENS, LAST, VOCABULARY = [2, 5, 7], 9, 10
HEAD = {"tokens": 12, "audio_rate": 4, "video_rate": 2, "projector_hidden": 16, "connector": {"type": "shared"}}


def chance(frames: Tensor, prefix: tuple[int, ...], whole: bool) -> float:
    """The chance that the frames begin with these of the tokens, or say just them: the sum over all paths."""
    total = 0.0
    for path in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        said = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol < len(TOKENS))
        if said == prefix if whole else said[: len(prefix)] == prefix:
            total += math.exp(sum(float(frames[time, symbol]) for time, symbol in enumerate(path)))
    return total


def test_scores_are_the_sums_over_all_paths():
    torch.manual_seed(0)
    frames = [torch.randn(6, 4).log_softmax(-1), None, torch.randn(4, 4).log_softmax(-1)]
    scores = JointScores(frames, torch.tensor(TOKENS), [LAST], 1.0)
    # Beams of the first and the last clip; they change places on the way, and 3 is a token that CTC does not know.
    written = [[[2, 2, 7], [5, 3, 5]], [[5, 5, 5], [7, 2, 2]], [[7, 2, 2], [7, 7, 2]]]
    for step in range(4):
        rows = [ids[:step] for beams in written for ids in (beams if step % 2 else beams[::-1])]
        given = torch.randn(6, VOCABULARY)
        found = scores(torch.tensor(rows).view(6, step), given)
        torch.testing.assert_close(found[2:4], given[2:4])  # CTC hears nothing of the second clip
        for row in (0, 1, 4, 5):
            clip = frames[row // 2]
            prefix = tuple(TOKENS.index(token) for token in rows[row] if token in TOKENS)
            before = chance(clip, prefix, False)
            for token in range(VOCABULARY):
                going_on = (*prefix, TOKENS.index(token)) if token in TOKENS else None
                expected = 0.0 if going_on is None else chance(clip, going_on, False)
                expected = chance(clip, prefix, True) if token == LAST else expected
                least = math.log(max(expected / before, 1e-99))
                assert float(found[row, token]) == pytest.approx(max(least, -25), abs=1e-4)


def test_the_share_of_each():
    frames = torch.randn(5, 4).log_softmax(-1)
    nothing, given = torch.empty(1, 0, dtype=torch.int64), torch.randn(1, VOCABULARY)
    alone, mixed, without = (
        JointScores([frames], torch.tensor(TOKENS), [LAST], weight)(nothing, given) for weight in (1.0, 0.3, 0.0)
    )
    torch.testing.assert_close(without, given.log_softmax(-1))
    torch.testing.assert_close(mixed, 0.3 * alone + 0.7 * without)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_what_is_forbidden_stays_forbidden(weight):
    given = torch.randn(1, VOCABULARY)
    given[0, [5, LAST]] = -torch.inf
    frames = [torch.randn(5, 4).log_softmax(-1)]
    found = JointScores(frames, torch.tensor(TOKENS), [LAST], weight)(torch.empty(1, 0, dtype=torch.int64), given)
    assert torch.equal(found == -torch.inf, given == -torch.inf)
    assert not found.isnan().any()


def test_long_clips_stay_exact():
    """A thousand frames that say the tokens in turn: what follows is certain, however small the chances have become."""
    frames = torch.full((1000, 4), -60.0)
    for time in range(1000):
        frames[time, (time // 50) % 3 if time % 50 < 3 else 3] = 0
    scores = JointScores([frames.log_softmax(-1)], torch.tensor(TOKENS), [LAST], 1.0)
    said = [TOKENS[place % 3] for place in range(20)]
    for step in range(21):
        found = scores(torch.tensor([said[:step]]).view(1, step), torch.zeros(1, VOCABULARY))
        assert int(found.argmax()) == (said[step] if step < 20 else LAST)
        assert float(found.max()) == pytest.approx(0, abs=1e-4)


@pytest.fixture(scope="module")
def model() -> MomeForSpeechRecognition:
    made = make_model(ctc=HEAD)
    made.ctc.alignment.tokens.copy_(torch.arange(12) + 8)
    return made


def certain(model: MomeForSpeechRecognition, clips: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the head be certain of what each clip says."""

    def heard(audio: object, video: object, rates: list[Rates], embedding: Tensor) -> list[Tensor]:
        frames = []
        for tokens in clips:
            rows = torch.full((3 * len(tokens) + 2, 13), -30.0)
            for place, token in enumerate(tokens):
                rows[3 * place + 1, token - 8] = 0
                rows[3 * place + 2, 12] = 0
            rows[0, 12] = rows[-1, 12] = rows[-2, 12] = 0
            rows[3::3, 12] = 0
            frames.append(rows.log_softmax(-1))
        return frames

    monkeypatch.setattr(model.ctc, "forward", heard)


@pytest.mark.parametrize("beams", [1, 4])
def test_what_the_head_is_certain_of_is_written(model, monkeypatch, beams):
    clips = [[9, 10, 10, 12, 19], [8, 11]]
    certain(model, clips, monkeypatch)
    encoded = model.encode(**raw_inputs([(80, 20), (64, 16)]))
    options = {"encoded": encoded, "rates": Rates(4, 2), "max_new_tokens": 9, "num_beams": beams, "eos_token_id": END}
    rows = model.generate(**options, ctc_weight=0.95).tolist()
    assert [[token for token in row if token >= 8] for row in rows] == clips
    assert [row.index(END) for row in rows] == [5, 2]
    # The control: the language model alone says something else.
    assert [[token for token in row if token >= 8] for row in model.generate(**options).tolist()] != clips


def test_clips_of_a_batch_are_decoded_as_alone(model):
    inputs = raw_inputs([(80, 20), (48, 12), (64, 16)])
    encoded, rates = model.encode(**inputs), [Rates(4, 2), Rates(16, None), Rates(None, 5)]
    options = {"max_new_tokens": 8, "ctc_weight": 0.5, "eos_token_id": END, "pad_token_id": 0}
    together = model.generate(encoded=encoded, rates=rates, **options)
    heard = model.ctc(encoded.audio, encoded.video, rates, model.get_input_embeddings().weight)
    for clip, rate in enumerate(rates):
        one = model.encode(**{name: value[clip : clip + 1] for name, value in inputs.items()})
        alone = model.generate(encoded=one, rates=rate, **options)[0]
        assert together[clip, : len(alone)].tolist() == alone.tolist()
        frames = encoded.audio.lengths[clip] // 4 if rate.audio else encoded.video.lengths[clip] // 2
        assert heard[clip].shape == (frames, 13)
        torch.testing.assert_close(heard[clip].exp().sum(-1), torch.ones(int(frames)))


def test_evidence_of_tokens_that_the_head_knows_and_of_one_that_it_does_not(model):
    frames = torch.randn(7, 13).log_softmax(-1)
    found = model.ctc.evidence(frames, torch.tensor([9, 3, 19, 9]))
    chances = frames.exp()
    others = chances[:, :12].sum(1) - chances[:, 1] - chances[:, 11]
    expected = torch.stack([chances[:, 1], others, chances[:, 11], chances[:, 1]]) / chances[:, 12]
    torch.testing.assert_close(found, expected.log())
    frames[3] = -60.0
    frames[3, 5] = 0  # sure of a token that is not in the transcript: those that are are no likelier than nothing
    assert (model.ctc.evidence(frames, torch.tensor([9, 19]))[:, 3] <= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype):
    half = make_model(ctc=HEAD).to(dtype)
    encoded = half.encode(**raw_inputs([(80, 20)]))
    rows = half.generate(encoded=encoded, rates=Rates(4, 2), max_new_tokens=4, ctc_weight=0.5)
    assert rows.shape[0] == 1
    heard = half.ctc(encoded.audio, None, [Rates(4, None)], half.get_input_embeddings().weight)[0]
    assert heard.dtype == torch.float32  # and the scores are rounded no further


def test_every_end_token_may_end_a_transcript(model, monkeypatch):
    certain(model, [[9, 10]], monkeypatch)
    encoded = model.encode(**raw_inputs([(80, 20)]))
    options = {"encoded": encoded, "rates": Rates(4, 2), "max_new_tokens": 6, "ctc_weight": 0.9, "pad_token_id": 0}
    first, second = (model.generate(**options, eos_token_id=ends).tolist() for ends in ([2, 3], [3, 2]))
    assert first == second  # the language model says which
    assert first[0][:2] == [9, 10]
    assert first[0][2] in (2, 3)
    without = JointScores([torch.randn(5, 4).log_softmax(-1)], torch.tensor(TOKENS), [], 1.0)
    found = without(torch.empty(1, 0, dtype=torch.int64), torch.randn(1, VOCABULARY))
    assert int((found > -25).sum()) == len(TOKENS)


def test_after_more_tokens_than_frames_nothing_is_left_but_the_end():
    frames = [torch.randn(3, 4).log_softmax(-1), torch.randn(12, 4).log_softmax(-1)]
    alone, together = (JointScores(frames[:count], torch.tensor(TOKENS), [LAST], 1.0) for count in (1, 2))
    written = [2, 5, 7, 2, 5]
    for step in range(6):
        one = alone(torch.tensor([written[:step]]).view(1, step), torch.zeros(1, VOCABULARY))
        two = together(torch.tensor([written[:step]] * 2).view(2, step), torch.zeros(2, VOCABULARY))
    expected = torch.tensor([0.0 if token == LAST else -25.0 for token in range(VOCABULARY)])
    torch.testing.assert_close(one[0], expected)
    torch.testing.assert_close(two[0], expected)
    assert two[1, LAST] > -25


def test_the_head_does_not_hear_what_it_has_no_rate_for():
    deaf = make_model(ctc={**HEAD, "audio_rate": None})
    encoded = deaf.encode(**raw_inputs([(80, 20)] * 2))
    rows = deaf.ctc(encoded.audio, encoded.video, [Rates(4, None), Rates(4, 2)], deaf.get_input_embeddings().weight)
    assert rows[0] is None
    assert rows[1].shape == (10, 13)
    options = {"encoded": encoded, "rates": Rates(4, None), "max_new_tokens": 5}
    assert deaf.generate(**options, ctc_weight=0.9).tolist() == deaf.generate(**options).tolist()


def test_without_a_head_there_is_no_weight():
    plain = make_model()
    encoded = plain.encode(**raw_inputs([(80, 20)]))
    with pytest.raises(MomeError, match=r"ctc_weight = 0\.5 is not possible: the model has no CTC head"):
        plain.generate(encoded=encoded, rates=Rates(4, 2), max_new_tokens=3, ctc_weight=0.5)
    with pytest.raises(MomeError, match="generation has ctc_weight, and the model has no ctc"):
        make_config(generation={"ctc_weight": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens = 0 is not possible"),
        ({"audio_rate": None, "video_rate": None}, "neither audio_rate nor video_rate"),
        ({"audio_rate": 0}, "compression rate 0"),
        ({"compression": "halve"}, "compression='halve'"),
        ({"projector_hidden": -1}, "projector_hidden=-1"),
        ({"connector": {"type": "none"}}, "connector type 'none'"),
        ({"width": 3}, "ctc option 'width' is unknown"),
        ({"connector": {"type": "joint"}}, "ctc has the connector joint"),
    ],
)
def test_options_that_are_not_possible(options, message):
    with pytest.raises(MomeError, match=message):
        make_model(ctc={**HEAD, **options})


def test_a_head_is_saved_and_loaded(model, tmp_path: Path):
    model.save_pretrained(tmp_path, self_contained=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert {key.partition(".")[0] for key in saved} == {"connector", "ctc", "language_model"}
    again = MomeForSpeechRecognition.from_pretrained(tmp_path)
    encoded = model.encode(**raw_inputs([(80, 20)]))
    given = (encoded.audio, encoded.video, [Rates(4, 2)], model.get_input_embeddings().weight)
    torch.testing.assert_close(again.ctc(*given), model.ctc(*given))
    for tokens in (torch.arange(12) + 1000, torch.arange(12) - 1, torch.zeros(12, dtype=torch.int64)):
        save_file({**saved, "ctc.alignment.tokens": tokens}, tmp_path / "model.safetensors")
        with pytest.raises(MomeError, match=r"ctc\.alignment\.tokens are not ascending ids"):
            MomeForSpeechRecognition.from_pretrained(tmp_path)
    save_file({**saved, "ctc.alignment.log_scale": torch.tensor(200.0)}, tmp_path / "model.safetensors")
    with pytest.raises(MomeError, match=r"ctc\.alignment\.log_scale is too large"):
        MomeForSpeechRecognition.from_pretrained(tmp_path)


def test_its_operations_are_counted(model):
    with_head, without = (
        inference_cost(model.config, Rates(16, None), 40, 0, new_tokens=5, ctc=ctc) for ctc in (True, False)
    )
    # Two linear layers on 40 frames, the scores of 12 tokens in 10 averages, and those of what follows 5 times.
    made = 40 * 2 * (24 * 16 + 16 * 32) + 10 * 2 * 12 * 32 + 5 * 10 * 2 * 12
    assert with_head.projectors - without.projectors == with_head.total - without.total == made
