from __future__ import annotations

import copy

import pytest
import torch

from mome.connectors.qformer import QFormerConfig, QFormerConnector, query_count
from mome.connectors.speech_rate import SpeechRatePredictor
from mome.features import Features
from mome.rates import Rates

OPTIONS = QFormerConfig(queries_per_second=4, longest=2, hidden=16, layers=2, heads=4, inner=24)
AVSR, ASR, VSR = Rates(4, 2), Rates(4, None), Rates(None, 2)


def connector(seed: int = 0) -> QFormerConnector:
    torch.manual_seed(seed)
    made = QFormerConnector(6, 5, 10, OPTIONS)
    made.predictor = SpeechRatePredictor(6, width=32, inner=48, layers=1)
    torch.nn.init.normal_(made.predictor.head.weight, std=0.1)  # rates that differ from clip to clip
    return made.eval()


def streams(audio: list[int], video: list[int]) -> tuple[Features, Features]:
    torch.manual_seed(1)
    return (
        Features(torch.randn(len(audio), max(audio) + 2, 6), torch.tensor(audio)),
        Features(torch.randn(len(video), max(video) + 3, 5), torch.tensor(video)),
    )


def alone(stream: Features, clip: int) -> Features:
    lengths = stream.lengths[clip : clip + 1]
    return Features(stream.frames[clip : clip + 1, : int(lengths)], lengths)


@pytest.mark.parametrize(
    ("frames", "speech_rate", "count"),
    [(0, 1.0, 0), (1, 1.0, 4), (25, 1.0, 4), (31, 1.0, 4), (50, 1.0, 8), (50, 1.5, 12), (50, 2.0, 16), (99, 1.9, 16)],
)
def test_query_count(frames, speech_rate, count) -> None:
    assert query_count(OPTIONS, frames, speech_rate) == count


def test_whole_seconds_give_whole_numbers_of_queries() -> None:
    options = QFormerConfig(queries_per_second=5)
    assert [query_count(options, frames) for frames in range(25, 501, 5)] == list(range(5, 101))


@torch.no_grad()
def test_tokens_follow_length_and_speech_rate() -> None:
    module = connector()
    audio, video = streams([100, 64, 20], [50, 32, 10])
    connected = module(audio, video, [AVSR] * 3)
    assert connected.audio == connected.video == [None] * 3
    assert not connected.losses
    rates = module.speech_rates(audio, video.lengths).tolist()
    assert len(set(rates)) > 1
    expected = [query_count(OPTIONS, length, rate) for length, rate in zip([50, 32, 10], rates, strict=True)]
    assert [tokens.shape for tokens in connected.fused] == [(count, 10) for count in expected]


@torch.no_grad()
def test_a_clips_tokens_do_not_depend_on_its_batch() -> None:
    module = connector()
    audio, video = streams([100, 64, 21, 40, 90, 1], [50, 33, 10, 30, 40, 3])
    rates = [AVSR, AVSR, AVSR, ASR, VSR, ASR]
    together = module(audio, video, rates).fused
    for clip, rate in enumerate(rates):
        given = (
            None if rate.audio is None else alone(audio, clip),
            None if rate.video is None else alone(video, clip),
        )
        (single,) = module(*given, [rate]).fused
        assert single.shape == together[clip].shape
        torch.testing.assert_close(single, together[clip])
    assert [len(tokens) > 0 for tokens in together] == [True] * 5 + [False]  # one audio token is no fused frame


@torch.no_grad()
def test_padding_is_not_read() -> None:
    module = connector()
    audio, video = streams([60, 30], [30, 16])
    before = module(audio, video, [AVSR] * 2).fused
    for stream in (audio, video):
        for row, length in zip(stream.frames, stream.lengths.tolist(), strict=True):
            row[length:] = torch.inf
    for ours, theirs in zip(module(audio, video, [AVSR] * 2).fused, before, strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_the_number_in_the_rates_does_not_matter() -> None:
    module = connector()
    audio, video = streams([60], [30])
    (ours,), (theirs,) = (module(audio, video, [rates]).fused for rates in (Rates(1, 1), Rates(16, 5)))
    assert torch.equal(ours, theirs)


@torch.no_grad()
def test_without_audio_or_predictor_speech_is_normally_fast() -> None:
    module = connector()
    audio, video = streams([100], [50])
    assert len(module(audio, video, [VSR]).fused[0]) == 8
    module.predictor = None
    assert len(module(audio, video, [AVSR]).fused[0]) == 8
    assert QFormerConnector(6, 5, 10, QFormerConfig(hidden=16, inner=24, speech_rate=False)).predictor is None


def test_a_modality_that_is_not_there() -> None:
    _, video = streams([20], [10])
    with pytest.raises(ValueError, match="not given"):
        connector()(None, video, [AVSR])


def test_gradients_reach_all_but_the_predictor_and_stay_finite() -> None:
    module = connector().train()
    audio, video = streams([40, 1], [20, 0])
    connected = module(audio, video, [AVSR, ASR])
    assert len(connected.fused[1]) == 0
    torch.cat(connected.fused).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == name.startswith("predictor."), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_speech_rate_loss_trains_the_predictor_alone() -> None:
    module = connector().train()
    audio, _ = streams([100, 150, 0], [1, 1, 1])
    audio.frames.requires_grad_()
    loss = module.losses(audio, None, torch.tensor([4, 9, 0]))["speech_rate"]
    rates = module.predictor(audio.frames[:2], audio.lengths[:2])
    targets = torch.tensor([4 / 2, 9 / 3]) / OPTIONS.words_per_second
    torch.testing.assert_close(loss, (rates - targets).square().mean())
    loss.backward()
    reached = {name.split(".")[0] for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert reached == {"predictor"}
    assert audio.frames.grad is None
    silent = Features(audio.frames[2:], audio.lengths[2:])
    assert module.losses(silent, None, torch.tensor([0]))["speech_rate"] == 0


def test_copies_and_state_round_trip() -> None:
    ours, other = connector(0), connector(7)
    other.load_state_dict(ours.state_dict())
    given = *streams([40], [20]), [AVSR]
    expected = ours(*given).fused[0]
    assert torch.equal(other(*given).fused[0], expected)
    assert torch.equal(copy.deepcopy(ours)(*given).fused[0], expected)


def test_published_sizes_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = QFormerConnector(1024, 1024, 3072, QFormerConfig())
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module.queries.shape == (1, 120, 1024)
    assert [layer.weight.shape for layer in module.projector] == [(2048, 1024), (3072, 2048)]
    assert module.qformer.config.encoder_hidden_size == 2048
