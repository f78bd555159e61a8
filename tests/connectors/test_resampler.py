from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.connectors.base import SeparateConnector
from mome.connectors.resampler import QueryResampler, resampled_length, sincos
from mome.errors import MomeError
from mome.features import Features
from mome.rates import Rates

RATES = (1, 2, 3, 5, 50)


def resampler(queries: int = 12, heads: int = 2, width: int = 8) -> QueryResampler:
    module = QueryResampler(width, 6, queries, heads).double()
    with torch.no_grad():
        # Biases and norms that are not zeros and ones, and queries that look somewhere.
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def normed(norm, x):
    x = (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt()
    return x * norm.weight + norm.bias


def embedding(position: float, width: int) -> torch.Tensor:
    angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def slow(module: QueryResampler, clip: torch.Tensor, rate: int) -> torch.Tensor:
    """One clip without padding, token by token and head by head."""
    frames, width = clip.shape
    queries, heads = len(module.query), module.attn.num_heads
    size = width // heads
    weights = module.attn.in_proj_weight.view(3, heads, size, width)
    biases = module.attn.in_proj_bias.view(3, heads, size)
    tokens = []
    for i in range(min(max(frames // rate, 1), queries)):
        query = normed(module.ln_q, module.query[i] + embedding(i, width))
        outputs = []
        for head in range(heads):
            q = weights[0, head] @ query + biases[0, head]
            scores, values = [], []
            for t in range(frames):
                place = (t + 0.5) * queries / frames - 0.5
                key = weights[1, head] @ normed(module.ln_k, embedding(place, width)) + biases[1, head]
                scores.append(q @ key / size**0.5)
                values.append(weights[2, head] @ normed(module.ln_v, clip[t]) + biases[2, head])
            outputs.append((torch.stack(scores).softmax(0)[:, None] * torch.stack(values)).sum(0))
        out = module.attn.out_proj.weight @ torch.cat(outputs) + module.attn.out_proj.bias
        tokens.append(out @ module.proj)
    return torch.stack(tokens)


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=3),
    rate=st.sampled_from(RATES),
    queries=st.sampled_from([1, 4, 12]),
)
def test_batch_equals_a_slow_loop_over_clips(lengths, rate, queries) -> None:
    module = resampler(queries)
    clips = [torch.randn(length, 8, dtype=torch.float64, requires_grad=True) for length in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
    tokens, counts = module(batch, torch.tensor(lengths), rate)
    expected = [slow(module, clip, rate) for clip in clips]
    assert counts.tolist() == [len(clip) for clip in expected]
    ours = torch.cat([row[:count] for row, count in zip(tokens, counts, strict=True)])
    torch.testing.assert_close(ours, torch.cat(expected))
    inputs = [*clips, *module.parameters()]
    weights = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad((torch.cat(expected) * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_fewer_tokens_are_the_first_of_more() -> None:
    module = resampler()
    clip, length = torch.randn(1, 12, 8, dtype=torch.float64), torch.tensor([12])
    every = module(clip, length, 1)[0]
    for rate in (2, 3, 5, 50):
        some, counts = module(clip, length, rate)
        assert some.shape[1] == counts[0] == max(12 // rate, 1)
        torch.testing.assert_close(some, every[:, : counts[0]])


def test_only_the_used_queries_get_gradients() -> None:
    module = resampler()
    module(torch.randn(2, 12, 8, dtype=torch.float64), torch.tensor([12, 9]), 3)[0].sum().backward()
    assert (module.query.grad[:4] != 0).any(-1).all()
    assert (module.query.grad[4:] == 0).all()


def test_a_clip_without_frames_gets_no_token_and_spoils_no_gradient() -> None:
    module = resampler()
    batch = Features(torch.randn(2, 6, 8, dtype=torch.float64), torch.tensor([6, 0]))
    connected = SeparateConnector(None, module)(None, batch, [Rates(None, 2), Rates(None, 2)])
    assert [len(row) for row in connected.video] == [3, 0]
    torch.cat(connected.video).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    tokens, counts = module(torch.zeros(2, 0, 8, dtype=torch.float64), torch.tensor([0, 0]), 2)
    assert tokens.shape == (2, 0, 6)
    assert counts.tolist() == [0, 0]


@given(length=st.integers(0, 2000), rate=st.integers(1, 60), queries=st.integers(1, 300))
def test_resampled_length(length, rate, queries) -> None:
    count = resampled_length(length, rate, queries)
    assert count == (0 if length == 0 else min(max(length // rate, 1), queries))
    assert resampled_length(torch.tensor([length]), rate, queries).tolist() == [count]


@given(length=st.integers(1, 5000), queries=st.integers(1, 600), data=st.data())
def test_every_number_of_tokens_can_be_had(length, queries, data) -> None:
    wanted = data.draw(st.integers(1, min(length, queries)))
    assert resampled_length(length, length / wanted, queries) == wanted
    assert resampled_length(torch.tensor([length, 0]), length / wanted, queries).tolist() == [wanted, 0]
    with pytest.raises(MomeError, match=r"rate 0\.5 is not possible"):
        resampled_length(length, 0.5, queries)


def test_half_precision_keeps_positions_apart() -> None:
    module = QueryResampler(64, 8, 1500, 4)
    clip, length = torch.randn(1, 1500, 64), torch.tensor([1500])
    with torch.no_grad():
        module.query.normal_()
        expected = module(clip, length, 1)[0]
        ours = module.bfloat16()(clip.bfloat16(), length, 1)[0].float()
    assert (ours - expected).norm() / expected.norm() < 0.02
    assert sincos(torch.tensor([1499.0, 1500.0]), 64).unique(dim=0).shape[0] == 2


def test_initial_weights_and_meta_device() -> None:
    module = QueryResampler(64, 100, 200, 4)
    assert module.state_dict().keys() == {"query", "proj"} | {
        f"{name}.{part}" for name in ("ln_q", "ln_k", "ln_v", "attn.out_proj") for part in ("weight", "bias")
    } | {"attn.in_proj_weight", "attn.in_proj_bias"}
    assert module.query.std().item() == pytest.approx(0.02, rel=0.1)
    assert module.proj.std().item() == pytest.approx(0.1, rel=0.1)
    assert {module.ln_q.eps, module.ln_k.eps, module.ln_v.eps} == {1e-6}
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in QueryResampler(64).parameters())


def test_errors_name_what_is_possible() -> None:
    with pytest.raises(MomeError, match="rate 0 is not possible"):
        resampler()(torch.zeros(1, 8, 8), torch.tensor([8]), 0)
    with pytest.raises(MomeError, match="heads = 3"):
        QueryResampler(8, heads=3)
    with pytest.raises(MomeError, match="odd"):
        QueryResampler(9, heads=3)
