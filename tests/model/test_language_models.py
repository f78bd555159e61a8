"""Every type of language model that a recogniser takes: right in a batch, counted, with every adapter or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, BartForCausalLM, OPTConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mome.adapters import (
    AdapterContext,
    LoraAdapterConfig,
    MomeAdapterConfig,
    adapter_parameters,
    attach,
    load_balancing_loss,
    use_context,
)
from mome.checkpoints.backbones import check_language_model
from mome.checkpoints.language_models import LANGUAGE_MODELS
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates
from tests.adapters.tiny import randomize

from .build import END, PAD, START, VOCABULARY, one_clip, raw_inputs, transcripts
from .test_cost import cost, generation_flops, make_config

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
SIZES_OF: dict[str, dict[str, Any]] = {  # in the names of their own
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {**GPT, "rotary_dim": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 48},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": {**GPT, "rotary_dim": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2},
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
BANK = {"routed_experts": 5, "top_k": 2, "bottleneck": 3}
ADAPTERS = {
    "layer": MomeAdapterConfig("layer", **BANK),
    "raw": MomeAdapterConfig("layer", **BANK, normalize_input=False),
    "attention": MomeAdapterConfig("attention", **BANK),
    "ffn": MomeAdapterConfig("ffn", **BANK),
    "lora": LoraAdapterConfig(4),
    "lora-ss": LoraAdapterConfig(4, shared=False, specific=3),
}
ALL = frozenset(ADAPTERS)
# Types that cannot have every adapter; all others can.
POSSIBLE = dict.fromkeys(
    ("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt"), frozenset[str]()
) | {
    **dict.fromkeys(("apertus", "exaone4", "olmo2", "olmo3"), ALL - {"layer"}),  # no norm at the layer's start
    **dict.fromkeys(("biogpt", "opt", "xglm"), ALL - {"layer", "ffn"}),
    **dict.fromkeys(("persimmon", "phi3"), ALL - {"lora", "lora-ss"}),  # query, key and value in one
    "gpt_neox": frozenset({"layer", "raw"}),
    **dict.fromkeys(("nemotron", "stablelm"), frozenset({"layer", "raw", "lora"})),  # attention is not told the context
}
IDS = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
RATES = Rates(4, 2)
every_type = pytest.mark.parametrize("kind", sorted(LANGUAGE_MODELS))


def text_config(kind: str) -> PreTrainedConfig:
    ends = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    return CONFIG_MAPPING[kind](vocab_size=VOCABULARY, **ends, **SIZES_OF.get(kind, SIZES))


@every_type
def test_a_recogniser_of_it_is_right_in_a_batch_and_counted(kind: str) -> None:
    torch.manual_seed(0)
    model = MomeForSpeechRecognition(make_config(text_config=text_config(kind), audio_context="clip"))
    for name, value in model.named_parameters():
        if value.dim() > 1 and "norm" not in name:
            torch.nn.init.normal_(value, std=value.shape[-1] ** -0.5)
    first, both = (generation_flops(model, RATES, new=new) for new in (1, 6))
    assert cost(model, RATES, new=1).prefill == pytest.approx(first, rel=0.01)
    assert cost(model, RATES, new=6).decode == pytest.approx(both - first, rel=0.01)

    inputs, labels = raw_inputs([(133, 34), (64, 16)]), transcripts([5, 3])
    options = {"rates": RATES, "max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": PAD}
    with torch.no_grad():
        logits = model(**inputs, labels=labels, rates=RATES).logits
        alone = model(**one_clip(inputs, 1), labels=labels[1:, :3], rates=RATES).logits
    torch.testing.assert_close(logits[1, :3], alone[0], rtol=1e-4, atol=1e-4)
    written = model.generate(**inputs, **options)
    assert torch.equal(written[1:], model.generate(**one_clip(inputs, 1), **options))
    logits[:, 0, END] = -torch.inf  # min_new_tokens forbids the end
    assert torch.equal(written[:, 0], logits[:, 0].argmax(-1))


def context() -> AdapterContext:
    return AdapterContext(torch.ones(2, 7, dtype=torch.bool), torch.tensor([0, 2]))


def loss_of(model: Any, adapter: str) -> torch.Tensor:
    adapter_context = context()
    torch.manual_seed(1)  # for dropout
    loss = model(IDS, labels=IDS, use_cache=False, adapter_context=adapter_context).loss
    return loss + load_balancing_loss(adapter_context) if isinstance(ADAPTERS[adapter], MomeAdapterConfig) else loss


@every_type
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_works_or_is_refused(kind: str, adapter: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(text_config(kind)).eval()
    before = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    names = set(model.state_dict())
    if adapter not in POSSIBLE.get(kind, ALL):
        with pytest.raises(MomeError):
            attach(model, ADAPTERS[adapter])
        assert set(model.state_dict()) == names, "the model is unchanged then"
        assert before == sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
        return
    with torch.no_grad():
        frozen = model(IDS, use_cache=False).logits
        attach(model, ADAPTERS[adapter])
        assert torch.equal(model(IDS, use_cache=False, adapter_context=context()).logits, frozen)
    randomize(model)
    model.train()
    trained = [value for _, value in adapter_parameters(model)]
    plain = torch.autograd.grad(loss_of(model, adapter), trained)
    assert all(gradient.any() for gradient in plain)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for one, other in zip(torch.autograd.grad(loss_of(model, adapter), trained), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    model.eval()
    ids = IDS
    with use_context(model, AdapterContext(group=torch.tensor([0, 2]))), torch.no_grad():
        options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 3, "min_new_tokens": 3}
        written = model.generate(IDS, **options, do_sample=False)
        for _ in range(3):
            logits = model(ids, use_cache=False).logits[:, -1]
            logits[:, END] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, ids)


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "recurrent_gemma", "bert", "bart", "diffllama", "ctrl"])
def test_what_does_not_fit_is_refused(kind: str) -> None:
    with pytest.raises(MomeError, match=f"of type {kind}, which is not supported: give one of apertus, "):
        check_language_model(CONFIG_MAPPING[kind]())


def test_embeddings_narrower_than_the_layers_are_refused() -> None:
    config = OPTConfig(**{**SIZES_OF["opt"], "word_embed_proj_dim": 16}, vocab_size=VOCABULARY)
    with pytest.raises(MomeError, match="embedding has width 16, its layers have 32"):
        MomeForSpeechRecognition(make_config(text_config=config))


def test_a_target_whose_size_is_unknown_is_refused_when_built() -> None:
    config = make_config(text_config=text_config("opt"))
    config.adapter = {"type": "lora", "bottleneck": 4, "targets": ["fc1"]}
    with pytest.raises(MomeError, match="size of the LoRA target 'fc1' is unknown"):
        MomeForSpeechRecognition(config)


def test_a_target_that_several_layers_have_is_refused() -> None:
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48
    )
    with pytest.raises(MomeError, match="has 2 linear layers q_proj"):
        attach(BartForCausalLM(config), LoraAdapterConfig(4))
