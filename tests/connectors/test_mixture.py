from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.connectors import Surroundings
from mome.connectors.mixture import MixtureConfig, MixtureConnector, ProjectorExperts, route, router_losses
from mome.connectors.pooling import average_pool
from mome.connectors.projectors import Projector
from mome.errors import MomeError
from mome.features import Features
from mome.rates import Rates

SHARINGS = ("joint", "experts", "none")


def connector(sharing="joint", method="average", video=6, rates=((2, 4), (1, 3)), **options) -> MixtureConnector:
    torch.manual_seed(0)
    around = Surroundings(*rates, 6, video, 10, 7, method, norm=True)
    return MixtureConnector(around, MixtureConfig(sharing=sharing, **options)).double()


def stream(lengths, width=6) -> Features:
    return Features(torch.randn(len(lengths), max(lengths), width, dtype=torch.float64), torch.tensor(lengths))


def slow(tokens: torch.Tensor, logits: torch.Tensor, experts, top_k: int) -> torch.Tensor:
    rows = []
    for token, row in zip(tokens, logits, strict=True):
        probabilities = row.exp() / row.exp().sum()
        kept = sorted(range(len(row)), key=lambda e: -row[e].item())[:top_k]
        total = sum(probabilities[e] for e in kept)
        rows.append(sum(probabilities[e] / total * experts[e](token) for e in kept))
    return torch.stack(rows)


def slow_losses(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    count, experts = logits.shape
    probabilities = logits.softmax(-1)
    chosen = logits.topk(top_k).indices
    balance = logits.new_zeros(())
    for slot in range(top_k):
        for e in range(experts):
            share = sum(int(chosen[t, slot] == e) for t in range(count)) / count
            balance = balance + share * probabilities[:, e].mean()
    return experts * balance / top_k, sum(row.exp().sum().log() ** 2 for row in logits) / count


@settings(deadline=None, max_examples=25)
@given(
    tokens=st.integers(1, 12),
    experts=st.integers(1, 5),
    seed=st.integers(0, 99),
    norm=st.booleans(),
    data=st.data(),
)
def test_experts_losses_and_gradients_equal_a_slow_loop(tokens, experts, seed, norm, data) -> None:
    top_k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    gate = torch.nn.Linear(4, experts, bias=False, dtype=torch.float64)
    pool = ProjectorExperts(Projector(4, 5, 3, norm).double() for _ in range(experts))
    x = torch.randn(tokens, 4, dtype=torch.float64, requires_grad=True)
    routing = route(gate(x), top_k)
    ours, theirs = pool(x, routing), slow(x, gate(x), pool, top_k)
    torch.testing.assert_close(ours, theirs)
    (losses, statistics), (balance, z) = router_losses([routing]), slow_losses(gate(x), top_k)
    torch.testing.assert_close(losses["balance"], balance)
    torch.testing.assert_close(losses["z"], z)
    chosen = [e for row in gate(x) for e in row.topk(top_k).indices.tolist()]
    torch.testing.assert_close(statistics.load.tolist(), [chosen.count(e) / len(chosen) for e in range(experts)])
    probabilities = gate(x).softmax(-1)
    torch.testing.assert_close(statistics.entropy, -(probabilities * probabilities.log()).sum(-1).mean())
    inputs = [x, gate.weight, *pool.parameters()]
    weights = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weights).sum() + losses["balance"] + losses["z"], inputs)
    loop = torch.autograd.grad(
        (theirs * weights).sum() + balance + z, inputs, allow_unused=True, materialize_grads=True
    )
    for a, b in zip(mine, loop, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("method", ["average", "stack"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_clips_do_not_depend_on_their_batch(sharing, method) -> None:
    grid = ((2, 4), (1, 3)) if method == "average" else ((2,), (2,))
    module = connector(sharing, method, rates=grid)
    wanted = [Rates(2, grid[1][0]), Rates(grid[0][-1], None), Rates(None, grid[1][-1]), Rates(2, grid[1][-1])]
    audio, video = stream([13, 9, 7, 3]), stream([7, 4, 5, 2])
    together = module(audio, video, wanted)
    for i, rates in enumerate(wanted):
        alone = module(
            *(Features(s.frames[i : i + 1, : s.lengths[i]], s.lengths[i : i + 1]) for s in (audio, video)), [rates]
        )
        for ours, theirs, rate, side in (
            (together.audio[i], alone.audio[0], rates.audio, audio),
            (together.video[i], alone.video[0], rates.video, video),
        ):
            assert (ours is None) == (theirs is None) == (rate is None)
            if rate is not None:
                assert ours.shape == (side.lengths[i] // rate, 10)
                torch.testing.assert_close(ours, theirs)
    assert together.fused == [None] * 4


@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_is_shared(sharing) -> None:
    module = connector(sharing)
    gates = ["audiovisual"] * 2 if sharing == "joint" else ["audio", "video"]
    pools = ["audiovisual"] * 2 if sharing in ("joint", "experts") else ["audio", "video"]
    keys = {f"{owner}.gate.weight" for owner in gates} | {
        f"{owner}.experts.{e}.{layer}.{part}"
        for owner in pools
        for e in range(4)
        for layer in (0, 2, 3)
        for part in ("weight", "bias")
    }
    assert module.state_dict().keys() == keys
    audio, video = stream([8, 6]), stream([5, 3])
    connected = module(audio, video, [Rates(2, 1), Rates(4, 3)])
    inputs = [
        torch.cat([average_pool(side.frames[i : i + 1, : side.lengths[i]], rate)[0] for i, rate in enumerate(rates)])
        for side, rates in ((audio, (2, 4)), (video, (1, 3)))
    ]
    logits = []
    for x, made, gate, pool in zip(inputs, (connected.audio, connected.video), gates, pools, strict=True):
        logits.append(x @ module.get_parameter(f"{gate}.gate.weight").T)
        torch.testing.assert_close(torch.cat(made), slow(x, logits[-1], module.get_submodule(f"{pool}.experts"), 2))
    groups = [torch.cat(logits)] if gates[0] == gates[1] else logits
    assert list(connected.routing) == list(dict.fromkeys(gates))
    for statistics, group in zip(connected.routing.values(), groups, strict=True):
        counts = group.topk(2).indices.flatten().bincount(minlength=4)
        torch.testing.assert_close(statistics.load, counts / counts.sum(dtype=torch.float64))
    for name, expected in zip(
        ("balance", "z"), zip(*(slow_losses(group, 2) for group in groups), strict=True), strict=True
    ):
        torch.testing.assert_close(connected.losses[name], sum(expected) / len(groups))


def test_losses_of_one_modality_alone() -> None:
    both, single = connector("none"), connector("none", video=None)
    single.load_state_dict({k: v for k, v in both.state_dict().items() if k.startswith("audio.")})
    audio = stream([8, 5])
    rates = [Rates(2, None), Rates(4, None)]
    ours, theirs = both(audio, None, rates), single(audio, None, rates)
    torch.testing.assert_close(ours.losses, theirs.losses)
    assert ours.video == [None, None]


def test_balance_is_1_where_experts_are_used_alike() -> None:
    routing = route(10 * torch.eye(4).repeat(3, 1) + 5 * torch.eye(4).roll(1, 1).repeat(3, 1), 2)
    torch.testing.assert_close(router_losses([routing])[0]["balance"], torch.tensor(1.0))


def test_no_token_at_all() -> None:
    connected = connector()(stream([1]), None, [Rates(2, None)])
    assert connected.audio[0].shape == (0, 10)
    assert {name: loss.item() for name, loss in connected.losses.items()} == {"balance": 0, "z": 0}


def test_experts_nobody_chose_have_zero_gradients() -> None:
    module = connector(experts=8, top_k=1)
    module(stream([2]), None, [Rates(2, None)]).audio[0].square().sum().backward()
    assert all(p.grad is not None for p in module.audiovisual["experts"].parameters())


def test_bfloat16_and_autocast() -> None:
    module = connector().float()
    audio = stream([40])
    expected = module(Features(audio.frames.float(), audio.lengths), None, [Rates(2, None)])
    with torch.autocast("cpu", torch.bfloat16):
        cast = module(Features(audio.frames.float(), audio.lengths), None, [Rates(2, None)])
    half = module.bfloat16()(Features(audio.frames.bfloat16(), audio.lengths), None, [Rates(2, None)])
    assert half.audio[0].dtype == torch.bfloat16
    for other in (cast, half):
        assert other.losses["z"].dtype == torch.float32
        # Rounded logits may choose another expert for a token or two.
        assert (other.audio[0].float() - expected.audio[0]).norm() / expected.audio[0].norm() < 0.2


def test_meta_device() -> None:
    with torch.device("meta"):
        module = MixtureConnector(Surroundings((4,), (2,), 8, 8, 2048), MixtureConfig())
    assert all(parameter.is_meta for parameter in module.parameters())
    assert "audiovisual.experts.0.3.weight" not in module.state_dict()


def test_errors_name_what_is_possible() -> None:
    with pytest.raises(MomeError, match="audio rates 2, 4"):
        connector()(stream([8]), None, [Rates(3, None)])
    with pytest.raises(MomeError, match="rate set"):
        connector(video=None)(stream([8]), stream([8]), [Rates(2, 1)])
    with pytest.raises(MomeError, match="single rate"):
        connector(method="stack")
    with pytest.raises(MomeError, match="sharing 'none'"):
        connector(video=8)
    assert connector("none", video=8)(None, stream([4], 8), [Rates(None, 1)]).video[0].shape == (4, 10)
    with pytest.raises(MomeError, match="at least one audio rate"):
        connector(rates=((), (1,)))


@pytest.mark.golden("llama-smop")
def test_golden_llama_smop_router(golden) -> None:
    state, _, outputs, config = golden
    prefix = "audiovisual_proj."
    weights = {k.replace(prefix, "audiovisual."): v for k, v in state.items() if k.startswith(prefix)}
    tokens, projected = outputs["proj_in"], outputs["proj_out"]
    around = Surroundings(
        (config["rate_audio"],),
        (config["rate_video"],),
        tokens.shape[-1],
        tokens.shape[-1],
        projected.shape[-1],
        config["projector_intermediate"],
        norm="audiovisual.experts.0.3.weight" in weights,
    )
    module = MixtureConnector(around, MixtureConfig(experts=config["experts"], top_k=config["top_k"]))
    module.load_state_dict(weights, strict=True)
    # The original counted padded frames in its losses, so here all frames are valid.
    logits = module.audiovisual["gate"](tokens.flatten(0, 1))
    routing = route(logits, module.top_k)
    assert torch.equal(routing.chosen, outputs["topk_idx"])
    made = module.audiovisual["experts"](tokens.flatten(0, 1), routing)
    losses, _ = router_losses([routing])
    for ours, theirs in (
        (logits, outputs["router_logits"]),
        (routing.weights, outputs["topk_weight"]),
        (made, projected.flatten(0, 1)),
        (config["top_k"] * losses["balance"], outputs["load_balancing_loss"]),
        (losses["z"], outputs["router_z_loss"]),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
