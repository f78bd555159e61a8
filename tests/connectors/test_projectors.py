from __future__ import annotations

import copy

import pytest
import torch

from mome.connectors.pooling import average_pool, compress
from mome.connectors.projectors import Projector, RateProjectors
from mome.errors import MomeError


def test_projector_is_linear_relu_linear_norm() -> None:
    projector = Projector(6, 10, hidden=7, norm=True)
    x = torch.randn(2, 5, 6)
    inner = (x @ projector[0].weight.T + projector[0].bias).clamp(min=0)
    expected = inner @ projector[2].weight.T + projector[2].bias
    expected = (expected - expected.mean(-1, keepdim=True)) / (
        expected.var(-1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(projector(x), expected)


def test_state_dict_keys_are_the_published_ones() -> None:
    plain = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert Projector(4, 8).state_dict().keys() == plain
    assert Projector(4, 8, norm=True).state_dict().keys() == plain | {"3.weight", "3.bias"}
    assert Projector(4, 8)[0].out_features == 2048
    rates = RateProjectors((4, 16), 4, 5, 8)
    assert rates.state_dict().keys() == {f"{i}.{key}" for i in (0, 1) for key in plain}


@pytest.mark.parametrize("method", ["average", "stack"])
@pytest.mark.parametrize("norm", [False, True])
def test_each_rate_has_its_own_projector(method, norm) -> None:
    rates = RateProjectors((2, 5), 6, 7, 10, method, norm)
    tokens, lengths = torch.randn(3, 21, 6), torch.tensor([21, 20, 4])
    for index, rate in enumerate((2, 5)):
        projected, valid = rates(tokens, lengths, rate)
        assert projected.shape == (3, 21 // rate, 10)
        assert valid.tolist() == [length // rate for length in lengths.tolist()]
        windows = tokens[:, : 21 // rate * rate].reshape(3, -1, rate * 6)
        compressed = windows if method == "stack" else average_pool(tokens, rate)
        torch.testing.assert_close(projected, rates[index](compressed))


def test_only_the_used_projector_gets_gradients() -> None:
    rates = RateProjectors((2, 5), 6, 7, 10)
    rates(torch.randn(1, 10, 6), torch.tensor([10]), 5)[0].sum().backward()
    assert all(p.grad is None for p in rates[0].parameters())
    assert all(p.grad is not None for p in rates[1].parameters())


def test_copies_and_state_round_trip() -> None:
    rates = RateProjectors((2, 5), 6, 7, 10)
    other = RateProjectors((2, 5), 6, 7, 10)
    other.load_state_dict(rates.state_dict())
    inputs = torch.randn(1, 10, 6), torch.tensor([10]), 2
    assert torch.equal(copy.deepcopy(rates)(*inputs)[0], other(*inputs)[0])


def test_no_token_at_all() -> None:
    projected, lengths = RateProjectors((16,), 6, 7, 10, norm=True)(torch.randn(2, 9, 6), torch.tensor([9, 3]), 16)
    assert projected.shape == (2, 0, 10)
    assert lengths.tolist() == [0, 0]


def test_errors_name_what_is_possible() -> None:
    with pytest.raises(MomeError, match="2, 5"):
        RateProjectors((2, 5), 6).projector(4)
    with pytest.raises(MomeError, match="twice"):
        RateProjectors((2, 2), 6)
    with pytest.raises(MomeError, match="at least one"):
        RateProjectors((), 6)
    with pytest.raises(MomeError, match="average, stack"):
        RateProjectors((2,), 6, method="mean")  # type: ignore[arg-type]


@pytest.mark.golden("llama-mtsk")
def test_golden_llama_mtsk_tokens(golden) -> None:
    state, _, outputs, config = golden
    method = "stack" if config.get("compression") == "stack" else "average"
    modalities = {"audio": ["audio"], "video": ["video"]}.get(config["modality"], ["audio", "video"])
    for modality in modalities:
        prefix, grid = f"{modality}_proj.", config[f"rates_{modality}"]
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if "0.weight" in weights:  # one projector for all rates
            weights = {f"{i}.{name}": value for i in range(len(grid)) for name, value in weights.items()}
        hidden, width = weights["0.0.weight"].shape
        features = width // grid[0] if method == "stack" else width
        projectors = RateProjectors(
            grid, features, hidden, len(weights["0.2.weight"]), method, norm="0.3.weight" in weights
        )
        projectors.load_state_dict(weights)
        encoded = outputs.get("whisper_enc" if modality == "audio" else "avhubert_enc")
        for rate in grid:
            theirs = outputs[f"{modality}_tokens_projected.rate{rate}"]
            pooled = outputs.get(f"{modality}_tokens_compressed.rate{rate}")
            if pooled is None and rate == 1:  # the original may skip the compression
                pooled = encoded[:, : theirs.shape[1]]
            if encoded is not None:
                ours, _ = compress(encoded, torch.tensor([encoded.shape[1]] * len(encoded)), rate, method)
                size = min(ours.shape[1], pooled.shape[1])  # the original kept what the longest clip needs
                torch.testing.assert_close(ours[:, :size], pooled[:, :size], atol=1e-5, rtol=0)
            torch.testing.assert_close(projectors.projector(rate)(pooled), theirs, atol=1e-5, rtol=0)
