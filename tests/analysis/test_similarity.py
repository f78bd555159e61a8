from __future__ import annotations

import numpy as np
import pytest
import torch

from mome.analysis.similarity import View, analyze_similarity, cka, collect_views, correlation, pair_tokens
from mome.errors import MomeError
from mome.rates import Rates

RATES = [Rates(4, 2), Rates(4, 5), Rates(16, 2)]


def noise(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """From the kernels' matrices, equation 5 of Song et al."""
    n = len(x)

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        k, m = (one @ one.T for one in (a, b))
        k, m = (one - torch.diag(torch.diag(one)) for one in (k, m))
        ones = torch.ones(n, dtype=k.dtype)
        middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (torch.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())


def test_cka_of_a_rotation_is_one():
    x = noise(40, 12, 0)
    rotation, _ = torch.linalg.qr(noise(12, 12, 1))
    assert cka(x, 3 * x @ rotation + 5) == pytest.approx(1)


def test_cka_of_independent_noise_is_about_zero():
    """Although the width is that of the rows' number, where the biased form gives about a half."""
    values = [cka(noise(60, 60, 2 * seed), noise(60, 60, 2 * seed + 1)) for seed in range(50)]
    assert abs(np.mean(values)) < 0.02
    centred = [noise(60, 60, seed) - noise(60, 60, seed).mean(0) for seed in (0, 1)]
    biased = (centred[0].T @ centred[1]).norm() ** 2 / (
        (centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm()
    )
    assert biased > 0.4


def test_cka_is_that_of_the_kernels():
    x = noise(30, 7, 0)
    y = x[:, :4] + noise(30, 4, 1) + 2
    assert cka(x, y) == pytest.approx(gram_cka(x, y))
    assert np.isnan(cka(x[:3], y[:3]))
    assert np.isnan(cka(torch.ones(9, 2), y[:9]))


def test_correlation_is_the_mean_of_the_pairs():
    x, y = noise(5, 9, 0), noise(5, 9, 1)
    expected = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(x, y, strict=True)])
    assert correlation(x, y) == pytest.approx(expected)
    assert correlation(x, 2 * x + 1) == pytest.approx(1)
    assert correlation(x, -x) == pytest.approx(-1)


def view(numbers: list[list[int]], span: float) -> View:
    return View(
        "audio",
        Rates(4, None),
        [torch.tensor(clip, dtype=torch.float)[:, None] for clip in numbers],
        [span] * len(numbers),
    )


def test_tokens_are_paired_by_time():
    fine, coarse = view([[0, 1, 2, 3, 4, 5, 6], [10, 11]], 0.08), view([[100, 101], [200]], 0.2)
    one, other = pair_tokens(fine, coarse)  # middles at 0.04, 0.12, 0.2, 0.28, 0.36 s; the sixth is beyond 0.4 s
    assert one.flatten().tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert other.flatten().tolist() == [100, 100, 101, 101, 101, 200, 200]
    turned = pair_tokens(coarse, fine)
    assert torch.equal(turned[0], other)
    assert torch.equal(turned[1], one)
    one, other = pair_tokens(fine, coarse, shift=1)
    assert one.flatten().tolist() == [0, 1, 10, 11]
    assert other.flatten().tolist() == [200, 200, 100, 100]


def test_views_are_the_connectors_tokens(transcriber, rows):
    views = collect_views(transcriber, rows, RATES, [0, 2], 2)
    assert [one.name for one in views[0]] == ["audio 4", "audio 16", "video 2", "video 5"]
    assert [len(tokens) for tokens in views[0][0].tokens] == [12, 13, 15]
    encoded = transcriber.encode([transcriber.load_clip(rows[2].path, RATES)], [RATES], 9)
    connected = transcriber.model.connect(encoded, [Rates(4, 5)])
    torch.testing.assert_close(views[0][3].tokens[2], connected.video[0], atol=1e-4, rtol=1e-4)
    assert views[2][0].tokens[0].shape == views[0][0].tokens[0].shape
    assert not torch.equal(views[2][0].tokens[0], views[0][0].tokens[0])


def test_findings(transcriber, rows):
    found = analyze_similarity(transcriber, rows, RATES, layers=[0, 1], batch_size=2)
    assert len(found.document["matrices"]) == 2 * 2 * 2
    for matrix in found.document["matrices"]:
        values = np.array(matrix["values"], dtype=float)
        assert np.array_equal(values, values.T)
        if matrix["clips"] == "same":
            np.testing.assert_allclose(np.diag(values), 1)
    with pytest.raises(MomeError, match="layer 3 does not exist: the model has layers 0"):
        analyze_similarity(transcriber, rows, RATES, layers=[3])
    alone = analyze_similarity(transcriber, rows[:1], RATES)
    assert {row[3] for row in alone.tables["similarity"].rows} == {"same"}
