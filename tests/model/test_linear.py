from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mome.adapters import LoraAdapterConfig, attach
from mome.model import linear
from mome.model.linear import OneDnnLinear, leave_to_onednn
from tests.adapters import tiny

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (40, 24), (3, 5, 24), (0, 24), (2, 0, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_product_is_the_same(bias, shape, dtype) -> None:
    plain = nn.Linear(24, 7, bias=bias, dtype=dtype)
    other = copy.deepcopy(plain)
    leave_to_onednn(other)
    assert type(other) is OneDnnLinear
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        least = {"rtol": 0.05, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(other(x), plain(x), **least)
        torch.testing.assert_close(other(x.mT.contiguous().mT if x.dim() > 1 else x), plain(x), **least)


class Operations(TorchDispatchMode):
    """Names of what PyTorch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_vectors_of_clips_are_one_product(dtype) -> None:
    plain = nn.Linear(24, 7, dtype=dtype).requires_grad_(False)
    other = copy.deepcopy(plain)
    leave_to_onednn(other)
    last = torch.randn(4, 9, 24, dtype=dtype)[:, -1:]
    with Operations() as computed:
        found = other(last)
    torch.testing.assert_close(found, plain(last.contiguous()), rtol=0.05, atol=0.01)
    assert [name for name in computed.names if "mm" in name] == ["aten::addmm"]  # no product for each clip


@pytest.mark.parametrize("shape", [(2048,), (1, 2048), (1, 1, 2048)])
def test_one_vector_and_large_weights(shape) -> None:
    layer = nn.Linear(2048, 2048)
    x = torch.randn(shape)
    expected = layer(x)
    leave_to_onednn(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 15, 48, 49])
@pytest.mark.parametrize("bias", [True, False])
def test_few_vectors_and_large_weights_in_bfloat16(rows, bias, monkeypatch) -> None:
    """Whether or not this processor has AMX: the sums are those of float64, rounded, and lie in memory as before."""
    monkeypatch.setattr(linear, "_has_amx", lambda: True)
    layer = nn.Linear(2048, 2048, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(rows, 1, 2048, dtype=torch.bfloat16)
    expected = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    leave_to_onednn(layer)
    with Operations() as computed:
        found = layer(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.01)
    assert ("aten::mm" in computed.names and "aten::add_.Tensor" in computed.names) == (1 < rows <= 48 and bias)


def test_gradients_are_those_of_a_linear_layer() -> None:
    plain = nn.Linear(24, 7)
    other = copy.deepcopy(plain)
    leave_to_onednn(other)
    for module in (plain, other):
        x = torch.ones(40, 24, requires_grad=True)
        module(x).square().sum().backward()
        module.of_input = x.grad
    assert torch.equal(other.of_input, plain.of_input)
    assert torch.equal(other.weight.grad, plain.weight.grad)


def test_frozen_weights_pass_gradients_on() -> None:
    layer = nn.Linear(24, 7).requires_grad_(False)
    leave_to_onednn(layer)
    x = torch.ones(40, 24, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(40, -1))


def test_it_is_oneDNN_that_computes(monkeypatch) -> None:
    seen: list[int] = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(input, *more):
        seen.append(len(input))
        return real(input, *more)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    layer = nn.Linear(24, 7)
    leave_to_onednn(layer)
    with torch.no_grad():
        for rows in (1, 7, 8, 100):
            layer(torch.ones(rows, 24))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.ones(100, 24)).dtype == torch.bfloat16
    assert seen == [8, 100]


def test_a_model_with_adapters_computes_the_same_and_keeps_its_weights() -> None:
    model = tiny.model()
    attach(model, LoraAdapterConfig(bottleneck=4, targets=["q_proj", "down_proj"]))
    names, before = list(model.state_dict()), model(tiny.ids(2, 9)).logits
    leave_to_onednn(model)
    with torch.no_grad():
        torch.testing.assert_close(model(tiny.ids(2, 9)).logits, before, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names
