from __future__ import annotations

import pytest
import torch

from mome.connectors.shared import SharedProjector
from mome.errors import MomeError

LENGTHS = torch.tensor([21, 20, 4])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rate", [1, 2, 5])
def test_equals_a_loop_over_projected_frames(rate, norm) -> None:
    shared = SharedProjector((1, 2, 5), 6, 7, 10, norm)
    tokens = torch.randn(3, 21, 6)
    projected, lengths = shared(tokens, LENGTHS, rate)
    assert projected.shape == (3, 21 // rate, 10)
    assert lengths.tolist() == [length // rate for length in LENGTHS.tolist()]
    for clip in range(3):
        for i in range(lengths[clip]):
            frames = [shared.projector(tokens[clip, i * rate + j]) for j in range(rate)]
            torch.testing.assert_close(projected[clip, i], sum(frames) / rate)


@pytest.mark.parametrize("rate", [4, 8, 12])
def test_segments_are_compressed_first(rate: int) -> None:
    shared = SharedProjector((4, 8, 12), 6, 7, 10, method="segments")
    frames = torch.randn(1, 26, 6)
    tokens, lengths = shared(frames, torch.tensor([26]), rate)
    assert lengths.tolist() == [26 // rate]
    for i in range(26 // rate):
        run = frames[0, i * rate : (i + 1) * rate]
        parts = [run[j * rate // 4 : (j + 1) * rate // 4].mean(0) for j in range(4)]
        torch.testing.assert_close(tokens[0, i], shared.projector(torch.cat(parts)))


def test_tokens_of_different_widths_are_refused() -> None:
    for method, rates in (("stack", (2, 4)), ("segments", (4, 5))):
        with pytest.raises(MomeError, match=f"compression={method} at the rates .* different widths"):
            SharedProjector(rates, 6, method=method)


def test_rates_are_nested() -> None:
    shared = SharedProjector((2, 4), 6, 7, 10)
    tokens = torch.randn(1, 24, 6)
    fine, coarse = (shared(tokens, torch.tensor([24]), rate)[0] for rate in (2, 4))
    torch.testing.assert_close(coarse, fine.unflatten(1, (-1, 2)).mean(2))


def test_no_valid_token_has_seen_padding() -> None:
    shared = SharedProjector((4,), 6, 7, 10, norm=True)
    clip = torch.randn(11, 6)
    padded = torch.full((1, 21, 6), float("nan"))
    padded[0, :11] = clip
    tokens, lengths = shared(padded, torch.tensor([11]), 4)
    torch.testing.assert_close(tokens[0, : lengths[0]], shared(clip[None], torch.tensor([11]), 4)[0][0])


def test_state_dict_keys_and_meta_device() -> None:
    with torch.device("meta"):
        shared = SharedProjector((1, 4), 6, norm=True)
    keys = {f"projector.{part}.{name}" for part in (0, 2, 3) for name in ("weight", "bias")}
    assert shared.state_dict().keys() == keys
    assert all(parameter.is_meta for parameter in shared.parameters())


def test_errors_name_what_is_possible() -> None:
    shared = SharedProjector((2, 5), 6, 7, 10)
    with pytest.raises(MomeError, match="2, 5"):
        shared(torch.randn(1, 8, 6), torch.tensor([8]), 4)
    with pytest.raises(MomeError, match="at least one"):
        SharedProjector((), 6)
    with pytest.raises(MomeError, match="from 1 up"):
        SharedProjector((0,), 6)
