from __future__ import annotations

import torch

from mome.connectors.speech_rate import SpeechRatePredictor


def predictor(**options: int) -> SpeechRatePredictor:
    torch.manual_seed(0)
    return SpeechRatePredictor(6, width=32, inner=48, heads=4, **options)


def test_untrained_it_takes_all_speech_for_normally_fast() -> None:
    rates = predictor()(torch.randn(5, 40, 6), torch.full((5,), 40))
    assert torch.equal(rates, torch.ones(5))


@torch.no_grad()
def test_rates_do_not_depend_on_the_batch_or_on_padding() -> None:
    module = predictor()
    torch.nn.init.normal_(module.head.weight)
    lengths = [150, 41, 4, 1]
    tokens = torch.randn(4, 160, 6)
    together = module(tokens, torch.tensor(lengths))
    for index, length in enumerate(lengths):
        alone = module(tokens[index : index + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[index : index + 1], alone)


def test_training_repeats_itself() -> None:
    module = predictor().train()
    given = torch.randn(2, 24, 6), torch.tensor([24, 20])
    assert torch.equal(module(*given), module(*given))


def test_it_learns_a_rate_from_the_tokens() -> None:
    module = predictor(layers=1)
    tokens, lengths = torch.randn(8, 16, 6), torch.full((8,), 16)
    targets = torch.linspace(0.6, 1.9, 8)
    tokens = tokens + targets[:, None, None]
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.smooth_l1_loss(module(tokens, lengths), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_it_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        meta = SpeechRatePredictor(6)
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert meta.head.in_features == 256
