from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.connectors.pooling import average_pool, compress, compressed_width, pooled_length, stack
from mome.errors import MomeError
from mome.features import length_mask

shapes = {"frames": st.integers(0, 40), "rate": st.integers(1, 20)}


@given(length=st.integers(0, 10**6), rate=st.integers(1, 500))
def test_pooled_length_is_the_floor(length: int, rate: int) -> None:
    assert pooled_length(length, rate) == length // rate
    tensor = pooled_length(torch.tensor([length, 0]), rate)
    assert tensor.tolist() == [length // rate, 0]
    assert tensor.dtype == torch.int64


@settings(deadline=None, max_examples=60)
@given(**shapes)
def test_average_pool_equals_a_loop(frames: int, rate: int) -> None:
    tokens = torch.randn(2, frames, 3, dtype=torch.float64)
    pooled = average_pool(tokens, rate)
    assert pooled.shape == (2, frames // rate, 3)
    for batch in range(2):
        for i in range(frames // rate):
            total = torch.zeros(3, dtype=torch.float64)
            for j in range(rate):
                total += tokens[batch, i * rate + j]
            torch.testing.assert_close(pooled[batch, i], total / rate)


@settings(deadline=None, max_examples=60)
@given(**shapes)
def test_stack_equals_a_loop(frames: int, rate: int) -> None:
    tokens = torch.randn(2, frames, 3)
    stacked = stack(tokens, rate)
    assert stacked.shape == (2, frames // rate, 3 * rate)
    for batch in range(2):
        for i in range(frames // rate):
            expected = [float(x) for j in range(rate) for x in tokens[batch, i * rate + j]]
            assert stacked[batch, i].tolist() == expected


@pytest.mark.parametrize(
    ("rate", "count"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (10, 2), (12, 4), (16, 4), (20, 4)]
)
def test_segments_are_averages_of_equal_parts_of_a_run(rate: int, count: int) -> None:
    frames = torch.randn(1, 2 * rate + rate // 2, 3)
    tokens, lengths = compress(frames, torch.tensor([frames.shape[1]]), rate, "segments")
    part = rate // count
    for run in range(2):
        parts = [frames[0, start : start + part].mean(0) for start in range(run * rate, (run + 1) * rate, part)]
        torch.testing.assert_close(tokens[0, run], torch.cat(parts))
    assert tokens.shape == (1, 2, compressed_width(3, rate, "segments"))
    assert lengths.tolist() == [2]


def test_average_pool_agrees_with_avg_pool1d() -> None:
    tokens = torch.randn(2, 50, 8)
    expected = torch.nn.functional.avg_pool1d(tokens.transpose(1, 2), 4, 4).transpose(1, 2)
    torch.testing.assert_close(average_pool(tokens, 4), expected)


@pytest.mark.parametrize("function", [average_pool, stack])
def test_rate_one_is_the_identity(function) -> None:
    tokens = torch.randn(2, 7, 3)
    assert function(tokens, 1) is tokens


@pytest.mark.parametrize("method", ["average", "stack", "segments"])
def test_fewer_frames_than_the_rate_give_no_token(method) -> None:
    tokens, lengths = compress(torch.randn(2, 3, 5), torch.tensor([3, 1]), 4, method)
    assert tokens.shape == (2, 0, compressed_width(5, 4, method))
    assert lengths.tolist() == [0, 0]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 23), min_size=1, max_size=4),
    rate=st.integers(1, 9),
    method=st.sampled_from(["average", "stack", "segments"]),
)
def test_valid_tokens_do_not_depend_on_the_batch(lengths: list[int], rate: int, method) -> None:
    clips = [torch.randn(length, 4) for length in lengths]
    # Padding of NaN: a valid token that has seen any of it shows.
    batch = torch.full((len(clips), max(lengths), 4), float("nan"))
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    tokens, valid = compress(batch, torch.tensor(lengths), rate, method)
    for i, clip in enumerate(clips):
        alone, alone_valid = compress(clip.unsqueeze(0), torch.tensor([len(clip)]), rate, method)
        assert valid[i] == alone_valid[0] == len(clip) // rate
        assert torch.equal(tokens[i, : valid[i]], alone[0])
    assert length_mask(valid, tokens.shape[1]).sum(-1).tolist() == valid.tolist()


@pytest.mark.parametrize("function", [average_pool, stack])
def test_gradients(function) -> None:
    tokens = torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, 4), (tokens,))
    function(tokens, 4).sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad[:, 8:] == 0).all(), "dropped frames have no influence"
    assert (tokens.grad[:, :8] != 0).all()


def test_bfloat16_average_is_correctly_rounded() -> None:
    tokens = torch.randn(1, 64, 8, dtype=torch.bfloat16)
    assert torch.equal(average_pool(tokens, 16), average_pool(tokens.double(), 16).to(torch.bfloat16))


@pytest.mark.parametrize("rate", [0, -2, 1.5, True])
def test_impossible_rates_are_refused(rate) -> None:
    for call in (
        lambda: pooled_length(10, rate),
        lambda: average_pool(torch.zeros(1, 4, 2), rate),
        lambda: stack(torch.zeros(1, 4, 2), rate),
    ):
        with pytest.raises(MomeError, match="rate"):
            call()


def test_unknown_method_is_refused() -> None:
    with pytest.raises(MomeError, match="average, stack"):
        compress(torch.zeros(1, 4, 2), torch.tensor([4]), 2, "max")  # type: ignore[arg-type]
