"""A language model in fewer bits: what it computes, what stays as it was, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mome.checkpoints.bits as bits
from mome import MomeForSpeechRecognition
from mome.adapters import adapter_modules, is_adapter_key
from mome.checkpoints.bits import EightBitLinear, RoundedLinear, quantization, quantize, round_weights
from mome.errors import MomeError
from mome.rates import Rates
from tests.model.build import KINDS, make_model, raw_inputs

CLIPS = [(133, 34), (64, 16)]
RATES = Rates(4, 2)
CPU = torch.device("cpu")


def eight_bits(linear: nn.Linear) -> nn.Linear:
    quantised = copy.deepcopy(nn.Sequential(linear))
    quantize(quantised)
    return quantised[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_rounded_weights_and_inputs(bias, dtype):
    torch.manual_seed(0)
    linear, x = nn.Linear(33, 21, bias=bias), torch.randn(2, 5, 33).to(dtype)
    weights, inputs = linear.weight.detach().numpy(), x.float().numpy()  # divided in float32: some are half-way
    steps, own_steps = (np.abs(each).max(-1, keepdims=True) / np.float32(127) for each in (weights, inputs))
    whole_weights, whole_inputs = (np.rint(each / step) for each, step in ((weights, steps), (inputs, own_steps)))
    exact = torch.from_numpy((whole_inputs * own_steps).astype(float) @ (whole_weights * steps).astype(float).T)
    exact = exact if linear.bias is None else exact + linear.bias.double()
    found = eight_bits(linear)(x)
    assert (found.dtype, found.shape) == (dtype, (2, 5, 21))
    torch.testing.assert_close(found.double(), exact, rtol=4e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert (found.double() - linear(x.float()).double()).norm() < 0.015 * exact.norm()


def test_a_vector_does_not_depend_on_the_others():
    torch.manual_seed(0)
    linear, x = eight_bits(nn.Linear(40, 9)), torch.randn(6, 40)
    x[3] *= 1000
    assert torch.equal(linear(x)[:2], linear(x[:2]))
    assert torch.equal(linear(torch.zeros(1, 40))[0], linear.bias)


@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_a_model_in_8_bits_is_about_the_model(tmp_path, family, adapter):
    model = make_model(family, adapter)
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path, language_model_dtype="int8")
    adapters = {part for _, one in adapter_modules(loaded.language_model) for part in one.modules()}
    linear = [module for module in loaded.language_model.modules() if isinstance(module, nn.Linear)]
    assert all(isinstance(module, EightBitLinear) != (module in adapters) for module in linear)
    assert not any(isinstance(module, EightBitLinear) for module in loaded.connector.modules())
    assert loaded.language_model.get_output_embeddings().weight.dtype == torch.int8
    assert loaded.get_input_embeddings().weight.dtype == torch.float32
    with torch.no_grad():
        inputs = model.prepare(model.encode(**raw_inputs(CLIPS)), [RATES] * 2)
        exact, rough = (
            one.language_model(inputs_embeds=inputs.embeddings, attention_mask=inputs.mask.long()).logits[inputs.mask]
            for one in (model, loaded)
        )
    assert 0 < (rough - exact).norm() < 0.1 * exact.norm()
    for beams in (1, 3):
        assert loaded.generate(**raw_inputs(CLIPS), rates=RATES, max_new_tokens=3, num_beams=beams).shape[0] == 2


def test_what_cannot_be_done_with_8_bits_says_so(tmp_path):
    model = make_model("llama", "lora")
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path, language_model_dtype="int8", dtype=torch.bfloat16)
    with pytest.raises(MomeError, match="8 bits, which are not saved: load it without language_model_dtype"):
        loaded.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(MomeError, match="is quantised and cannot be merged into"):
        loaded.merge()
    with pytest.raises(ValueError, match="have no gradient"):
        loaded(**raw_inputs(CLIPS), labels=torch.tensor([[5, 1], [6, 1]]), rates=RATES)
    with pytest.raises(ValueError, match="exclude each other"):
        MomeForSpeechRecognition.from_pretrained(tmp_path, language_model_dtype="int8", quantization_config={})
    with pytest.raises(ValueError, match="int2' is not supported: give one of int8, int4"):
        MomeForSpeechRecognition.from_pretrained(tmp_path, language_model_dtype="int2")


@pytest.mark.parametrize("bias", [True, False])
def test_rounded_weights_give_what_autocast_gives_and_gradients_to_what_is_before(bias):
    torch.manual_seed(0)
    plain, x = nn.Linear(33, 21, bias=bias), torch.randn(2, 5, 33, requires_grad=True)
    rounded = nn.Sequential(copy.deepcopy(plain))
    rounded.get_input_embeddings = lambda: nn.Embedding(3, 4)
    round_weights(rounded)
    assert isinstance(rounded[0], RoundedLinear)
    assert {value.dtype for value in rounded.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded(x), plain(x))
    output = rounded(x)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, plain(x), rtol=2e-2, atol=2e-2)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    exact = plain.weight.bfloat16().double().sum(0).expand(2, 5, -1)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_rounded_weights_are_those_of_the_linear_layers_alone(family, adapter):
    model = make_model(family, adapter)
    before = {name: value.clone() for name, value in model.named_parameters()}
    linear = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("language_model.") and not is_adapter_key(f"{name}.weight")
        for part in ("weight", "bias")
    }
    round_weights(model.language_model)
    for name, value in model.named_parameters():  # a head that is tied has the name of the embedding
        assert torch.equal(value, before[name].bfloat16() if name in linear else before[name])


def test_a_language_model_in_4_bits_is_not_copied(tmp_path):
    model = make_model("llama", "lora")
    model.save_pretrained(tmp_path / "first", self_contained=True)
    model.config.language_model = str(tmp_path / "first" / "language_model")
    model.language_model.is_quantized = True  # as Transformers says of one that bitsandbytes holds
    with pytest.raises(MomeError, match="fewer bits, which are not copied: save with self_contained=False"):
        model.save_pretrained(tmp_path / "copied", self_contained=True)
    assert not (tmp_path / "copied").exists()
    model.save_pretrained(tmp_path / "referring")
    assert not (tmp_path / "referring" / "language_model").exists()


def test_a_processor_that_cuts_sums_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.float() @ b.float()).clamp(max=32767).int())
    with pytest.raises(MomeError, match="int8 is not exact on this processor"):
        quantization("int8", CPU, torch.float32)


def test_what_is_left_to_bitsandbytes(monkeypatch):
    monkeypatch.setattr(bits, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(MomeError, match=r"^int4 needs further packages: pip install bitsandbytes$"):
        quantization("int4", CPU, torch.float32)
    with pytest.raises(MomeError, match=r"^int8 on cuda needs further packages: pip install bitsandbytes$"):
        quantization("int8", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(bits, "find_spec", lambda name: name)
    eight = quantization("int8", torch.device("cuda", 1), torch.float32)
    assert eight is not None
    assert eight.load_in_8bit
    four = quantization("int4", torch.device("cuda"), torch.bfloat16)
    assert four is not None
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)
    assert quantization("int8", CPU, torch.float32) is None
