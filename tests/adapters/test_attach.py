from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM

from mome.adapters import (
    AdapterContext,
    ExpertBank,
    Lora,
    LoraAdapterConfig,
    MomeAdapterConfig,
    adapter_modules,
    adapter_parameters,
    adapter_state_dict,
    attach,
    decoder_layers,
    load_adapter_state_dict,
    load_balancing_loss,
    set_top_k,
)
from mome.errors import MomeError

from . import tiny

all_models = pytest.mark.parametrize(
    ("family", "adapter"), [(family, adapter) for family in tiny.FAMILIES for adapter in tiny.ADAPTERS]
)
all_adapters = pytest.mark.parametrize("adapter", tiny.ADAPTERS)


@all_models
def test_starts_as_the_frozen_model_exactly(family, adapter) -> None:
    frozen, ids = tiny.model(family), tiny.ids(2, 7)
    expected = frozen(ids).logits
    adapted = attach(frozen, tiny.ADAPTERS[adapter])
    assert adapted is frozen
    assert torch.equal(adapted(ids).logits, expected)
    tiny.randomize(adapted)
    assert not torch.allclose(adapted(ids).logits, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [*tiny.ADAPTERS, *tiny.GROUPED])
def test_on_a_quantised_model(adapter, dtype) -> None:
    frozen, ids = tiny.quantise(tiny.model().to(dtype)), tiny.ids(2, 7)
    expected = frozen(ids).logits
    given = {"adapter_context": AdapterContext(group=1)} if adapter in tiny.GROUPED else {}
    adapted = attach(frozen, (tiny.ADAPTERS | tiny.GROUPED)[adapter])
    assert {value.dtype for _, value in adapter_parameters(adapted)} == {dtype}
    assert torch.equal(adapted(ids, **given).logits, expected)
    tiny.randomize(adapted)
    output = adapted(ids, labels=ids, **given)
    assert not torch.allclose(output.logits, expected, atol=1e-2)
    output.loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for _, value in adapter_parameters(adapted))
    assert adapted.model.layers[0].self_attn.q_proj.weight.dtype == torch.int8


def reference_layer(layer, adapter: str, x: torch.Tensor, **kwargs) -> torch.Tensor:
    """A Llama decoder layer with its experts, written out."""
    normalized = layer.input_layernorm(x)
    attended, _ = layer.self_attn(normalized, **kwargs)
    if adapter == "attention":
        attended = attended + layer.self_attn.mome(normalized)
    middle = x + attended
    normalized = layer.post_attention_layernorm(middle)
    output = middle + layer.mlp(normalized)
    if adapter == "ffn":
        output = output + layer.mlp.mome(normalized)
    if adapter == "layer":
        output = output + layer.mome(layer.input_layernorm(x))
    if adapter == "layer-raw":
        output = output + layer.mome(x)
    return output


@pytest.mark.parametrize("adapter", tiny.BANKS)
def test_placement_in_a_llama_layer(adapter) -> None:
    model = tiny.model("llama", adapter)
    layer, x = decoder_layers(model)[1], torch.randn(2, 5, tiny.WIDTH)
    position = {"position_embeddings": model.model.rotary_emb(x, torch.arange(5).unsqueeze(0))}
    ours = layer(x, **position)
    for module in layer.modules():
        module._forward_hooks.clear()
    torch.testing.assert_close(ours, reference_layer(layer, adapter, x, **position))
    torch.testing.assert_close(ours, reference_layer(layer, adapter, x, attention_mask=None, **position))


def test_lora_equals_merged_weights() -> None:
    model, ids = tiny.model("qwen3", "lora"), tiny.ids(2, 6)
    merged = tiny.model("qwen3")
    for name, module in adapter_modules(model):
        assert isinstance(module, Lora)
        update = module.scale * module.up.weight @ module.down.weight
        merged.get_submodule(name.removesuffix(".lora")).weight.data += update.detach()
    torch.testing.assert_close(model(ids).logits, merged(ids).logits)


@pytest.mark.golden("llama-mtsk-ms")
def test_golden_llama_mtsk_lora(golden) -> None:
    from transformers import LlamaConfig

    state, _, outputs, options = golden
    llm, lora = options["llm"], options["lora"]
    config = LlamaConfig(**{k: v for k, v in llm.items() if k not in ("added_tokens", "final_vocab")})
    config.vocab_size = llm["final_vocab"]
    config.rope_parameters = {"rope_type": "default", "rope_theta": llm["rope_theta"]}
    bottleneck = round(llm["hidden_size"] / lora["RANK"])
    adapter = LoraAdapterConfig(bottleneck, lora["ALPHA"] / lora["RANK"])
    model = attach(AutoModelForCausalLM.from_config(config).eval(), adapter)
    ours = {}
    for key, value in state.items():
        if key.startswith("llm."):
            for theirs, target in (("Q", "q_proj"), ("V", "v_proj")):
                for part in ("down", "up"):
                    key = key.replace(f"lora_{part}_{theirs}", f"{target}.lora.{part}")
            ours[key.removeprefix("llm.")] = value
    model.load_state_dict(ours)
    pairs = [key.removeprefix("logits.") for key in outputs if key.startswith("logits.")]
    assert pairs
    for pair in pairs:
        logits = model(inputs_embeds=outputs[f"inputs_embeds.{pair}"]).logits
        torch.testing.assert_close(logits, outputs[f"logits.{pair}"], rtol=0, atol=5e-5)


@all_adapters
def test_only_adapters_are_trainable(adapter) -> None:
    model = tiny.model("llama", adapter)
    names = {name for name, _ in adapter_parameters(model)}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".mome." in name or ".lora." in name for name in names)
    assert names == {name for name in model.state_dict() if ".mome." in name or ".lora." in name}
    prefix = {"layer": "mome.", "attention": "self_attn.mome.", "ffn": "mlp.mome."}.get(adapter)
    if prefix is not None:
        assert all(name.startswith(f"model.layers.{name.split('.')[2]}.{prefix}") for name in names)
    if adapter == "lora":
        assert "model.layers.0.self_attn.q_proj.lora.down.weight" in names


def test_both_kinds_together() -> None:
    model, ids = tiny.model("gemma3", "attention"), tiny.ids(1, 6)
    one = model(ids).logits
    attach(model, tiny.ADAPTERS["lora"])
    assert torch.equal(model(ids).logits, one)
    assert all(p.requires_grad for _, p in adapter_parameters(model))
    assert {type(module) for _, module in adapter_modules(model)} == {ExpertBank, Lora}
    context = AdapterContext()
    model(ids, adapter_context=context)
    assert sorted(context.routing) == [0, 1, 2]


@all_models
def test_cached_decoding_equals_the_full_forward(family, adapter) -> None:
    model, ids = tiny.model(family, adapter), tiny.ids(2, 9)
    full = model(ids).logits
    cache, pieces = None, []
    for piece in (ids[:, :5], *ids[:, 5:].split(1, dim=1)):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, rtol=1e-4, atol=1e-5)


@all_models
def test_generate_greedy_and_beam(family, adapter) -> None:
    model, ids = tiny.model(family, adapter), tiny.ids(2, 4)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    greedy = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    expected = ids
    for _ in range(5):
        logits = model(expected).logits[:, -1]
        logits[:, 2] = -torch.inf  # min_new_tokens forbids the end token
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(greedy, expected)
    beams = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=3,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    log_probabilities = model(beams.sequences).logits.log_softmax(-1)[:, 3:-1]
    scores = log_probabilities.gather(-1, beams.sequences[:, 4:, None]).mean(dim=(1, 2))
    torch.testing.assert_close(scores, beams.sequences_scores, rtol=1e-4, atol=1e-5)


@all_adapters
def test_deepcopy_and_pickle_run_their_own_weights(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(1, 5)
    # A context that a repeated forward left behind must neither be copied nor be in the way.
    layer, left = decoder_layers(model)[0], AdapterContext(torch.ones(1, requires_grad=True) * 2)
    layer.adapter_slot.context = left
    expected = model(ids).logits
    layer.adapter_slot.context = left
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids).logits, expected)
        own = decoder_layers(other)[0]
        assert own.adapter_slot is not layer.adapter_slot
        assert own.self_attn.adapter_slot is own.adapter_slot
        assert next(m for _, m in adapter_modules(other)).slot is own.adapter_slot
        for _, parameter in adapter_parameters(other):
            parameter.data.zero_()
        assert not torch.allclose(other(ids).logits, expected)
        assert torch.equal(model(ids).logits, expected)


@all_adapters
def test_adapter_state_round_trip(adapter) -> None:
    model, other = tiny.model("llama", adapter), tiny.model("llama", adapter, trained=False)
    ids = tiny.ids(1, 5)
    buffer = io.BytesIO()
    torch.save(adapter_state_dict(model), buffer)
    buffer.seek(0)
    load_adapter_state_dict(other, torch.load(buffer, weights_only=True))
    assert torch.equal(other(ids).logits, model(ids).logits)
    missing, unexpected = other.load_state_dict(adapter_state_dict(model), strict=False)
    assert not unexpected
    assert not any(".mome." in key or ".lora." in key for key in missing)


def test_adapter_states_that_do_not_fit_are_refused() -> None:
    model = tiny.model("llama", "layer")
    state = adapter_state_dict(model)
    with pytest.raises(MomeError, match=r"unknown model.layers.0.self_attn.mome"):
        load_adapter_state_dict(model, {**state, "model.layers.0.self_attn.mome.x": torch.ones(1)})
    with pytest.raises(MomeError, match=r"lacks model.layers.0.mome"):
        load_adapter_state_dict(model, {k: v for k, v in state.items() if "layers.0" not in k})
    with pytest.raises(MomeError, match="shape"):
        load_adapter_state_dict(model, {k: v[:1] for k, v in state.items()})


@all_adapters
def test_bfloat16(adapter) -> None:
    model = attach(tiny.model("llama").to(torch.bfloat16), tiny.ADAPTERS[adapter])
    tiny.randomize(model)
    assert all(p.dtype == torch.bfloat16 for _, p in adapter_parameters(model))
    ids, context = tiny.ids(2, 5), AdapterContext()
    model.train()
    output = model(ids, labels=ids, adapter_context=context)
    assert output.logits.dtype == torch.bfloat16
    loss = output.loss if adapter == "lora" else output.loss + load_balancing_loss(context)
    loss.backward()
    for _, parameter in adapter_parameters(model):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    # Adapters of higher precision on a half-precision model.
    for _, module in adapter_modules(model):
        module.float()
    assert model(ids).logits.dtype == torch.bfloat16


@all_adapters
def test_meta_device(adapter) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny.config("llama"))
    attach(model, tiny.ADAPTERS[adapter])
    assert all(p.is_meta for _, p in adapter_parameters(model))
    count = sum(p.numel() for _, p in adapter_parameters(model))
    assert count == sum(p.numel() for _, p in adapter_parameters(tiny.model("llama", adapter)))


def test_recorded_hidden_states_include_the_adapters() -> None:
    model, ids = tiny.model("llama"), tiny.ids(1, 5)
    model(ids, output_hidden_states=True)  # installs the recording hooks before ours
    attach(model, tiny.ADAPTERS["layer"])
    tiny.randomize(model)
    recorded = model(ids, output_hidden_states=True, output_attentions=True).hidden_states
    layer = decoder_layers(model)[0]
    position = {"position_embeddings": model.model.rotary_emb(recorded[0], torch.arange(5).unsqueeze(0))}
    torch.testing.assert_close(recorded[1], layer(recorded[0], **position))


def test_elastic_top_k() -> None:
    model, ids = tiny.model("llama", "layer"), tiny.ids(1, 5)
    four = model(ids).logits
    set_top_k(model, 1)
    assert not torch.equal(model(ids).logits, four)
    context = AdapterContext()
    model(ids, adapter_context=context)
    assert float(context.routing[0].load.sum()) == pytest.approx(1)
    with pytest.raises(MomeError, match="top_k"):
        set_top_k(model, 9)
    with pytest.raises(MomeError, match="no mome adapter"):
        set_top_k(tiny.model("llama", "lora"), 1)


def test_real_sizes_have_the_configured_width() -> None:
    config = MomeAdapterConfig("attention")
    with torch.device("meta"):
        # More heads than the width would make: the attention is wider than the model.
        wide = tiny.config("qwen3")
        wide.num_attention_heads = 16
        model = attach(AutoModelForCausalLM.from_config(wide), config)
    assert {module.width for _, module in adapter_modules(model)} == {tiny.WIDTH}
