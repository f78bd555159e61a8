"""Language models and Whispers of every size: tiny random ones with the features of their families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DogeConfig,
    Ernie4_5_MoeConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome import MomeForSpeechRecognition, MomeProcessor
from mome.checkpoints import backbones
from mome.encoders.avhubert import AVHubertModel
from mome.errors import MomeError
from mome.rates import Rates
from tests.adapters.tiny import Int8Linear, quantise
from tests.model.build import ADAPTERS, END, PAD, START, VOCABULARY, make_config, raw_inputs, transcripts
from tests.tiny import tiny_tokenizer

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])
ALL_RATES = [Rates(4, 2), Rates(16, None), Rates(None, 5)]
SCALED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama-2": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama-3.2": (
        LlamaConfig,
        {"rope_parameters": {**SCALED, "original_max_position_embeddings": 64}, "tie_word_embeddings": True},
    ),
    "qwen2.5": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}),
    "smollm2": (LlamaConfig, {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 24}),
    "mistral": (MistralConfig, {"sliding_window": None}),
}
SIZES = {"tiny": (80, 12), "base": (80, 16), "small": (80, 24), "medium": (80, 32), "large-v3": (128, 40)}


def text_config(family: str) -> Any:
    cls, own = FAMILIES[family]
    values = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **own}
    return cls(
        vocab_size=VOCABULARY,
        intermediate_size=48,
        num_hidden_layers=2,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        **values,
    )


def make(family: str, **options: Any) -> MomeForSpeechRecognition:
    torch.manual_seed(0)
    values = {"text_config": text_config(family), "added_tokens": 4, "audio_markers": [61, 62], **options}
    model = MomeForSpeechRecognition(make_config(**values))
    for name, weight in model.named_parameters():  # far enough from the start for logits to differ
        if weight.dim() > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return model


@torch.no_grad()
def logits(model: MomeForSpeechRecognition, rates: Rates = ALL_RATES[0]) -> torch.Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=rates).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_is_saved_and_decodes(tmp_path, family):
    model = make(family).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=ALL_RATES).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert type(loaded.language_model) is type(model.language_model)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)
    for rates in ALL_RATES:
        options = {"rates": rates, "max_new_tokens": 4, "do_sample": False}
        greedy = model.generate(**raw_inputs(CLIPS), **options)
        first = logits(model, rates)[:, 0].argmax(-1)
        assert torch.equal(greedy[:, 0], first)
        beams = model.generate(**raw_inputs(CLIPS), **options, num_beams=3)
        assert beams.shape[0] == 2
        assert torch.equal(loaded.generate(**raw_inputs(CLIPS), **options, num_beams=3), beams)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_and_both_attentions(tmp_path, family):
    model = make(family)
    model.save_pretrained(tmp_path)
    exact = logits(model)
    for attention in ("sdpa", "eager"):
        loaded = MomeForSpeechRecognition.from_pretrained(tmp_path, attn_implementation=attention)
        assert loaded.language_model.config._attn_implementation == attention
        torch.testing.assert_close(logits(loaded), exact, rtol=0, atol=1e-4)
    half = MomeForSpeechRecognition.from_pretrained(tmp_path, dtype=torch.bfloat16)
    rough = logits(half).float()
    assert (rough - exact).norm() < 0.1 * exact.norm()
    assert half.generate(**raw_inputs(CLIPS), rates=ALL_RATES[0], max_new_tokens=2).shape[0] == 2


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantisation_is_for_the_language_model_alone(tmp_path, monkeypatch, adapter, dtype):
    model = make("llama-2", adapter=ADAPTERS[adapter])
    model.save_pretrained(tmp_path)
    asked: dict[str, dict[str, Any]] = {}

    def spy(cls: Any, name: str) -> None:
        real = cls.from_pretrained

        def from_pretrained(reference: str, **options: Any) -> Any:
            asked[name] = dict(options)
            quantised = options.pop("quantization_config", None)  # what does it is not installed here
            backbone = real(reference, **options)
            return backbone if quantised is None else quantise(backbone)

        monkeypatch.setattr(cls, "from_pretrained", from_pretrained)

    spy(AutoModelForCausalLM, "language_model")
    spy(AVHubertModel, "video_encoder")
    spy(WhisperEncoder, "audio_encoder")
    quantised = {"load_in_8bit": True}
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path, dtype=dtype, quantization_config=quantised)
    linear = loaded.language_model.model.layers[0].self_attn.q_proj
    assert isinstance(linear, Int8Linear)
    assert linear.weight.dtype == torch.int8
    assert {value.dtype for value in loaded.parameters() if value.requires_grad} == {dtype}
    rough, exact = logits(loaded), logits(model)
    assert rough.isfinite().all()
    if dtype == torch.float32:  # bfloat16 sends tokens to other experts
        assert (rough - exact).norm() < 0.05 * exact.norm()
    assert loaded.generate(**raw_inputs(CLIPS), rates=ALL_RATES[0], max_new_tokens=2).shape[0] == 2
    loaded.train()(**raw_inputs(CLIPS), labels=LABELS, rates=ALL_RATES[0]).loss.backward()
    assert asked["language_model"]["quantization_config"] == quantised
    assert set(asked) == {"language_model", "video_encoder", "audio_encoder"}
    assert not any("quantization_config" in asked[name] for name in ("video_encoder", "audio_encoder"))


def test_a_model_that_also_sees_is_refused(tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = Gemma3Config(text_config=text_config("gemma3").to_dict(), vision_config=SiglipVisionConfig(**vision))
    whole.save_pretrained(tmp_path)  # weights are not even looked for
    message = "is of type gemma3, which reads more than text .* here gemma3_text$"
    with pytest.raises(MomeError, match=f"the language model {message}"):
        make("gemma3", text_config=whole)
    with pytest.raises(MomeError, match=f"the language model {tmp_path} {message}"):
        backbones.backbone_config("language_model", str(tmp_path))
    with pytest.raises(MomeError, match=f"the language model {tmp_path} {message}"):
        backbones.load_backbone("language_model", str(tmp_path), None, torch.float32, {})


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        (Qwen3MoeConfig(num_experts=4), 4),
        (MixtralConfig(num_local_experts=8), 8),
        (DeepseekV3Config(n_routed_experts=16), 16),
        (Ernie4_5_MoeConfig(moe_num_experts=6), 6),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_mixture_of_experts_is_refused(config, experts, tmp_path):
    config.save_pretrained(tmp_path)
    message = f"is of type {config.model_type}, itself a mixture of {experts} experts.*: give a dense one$"
    with pytest.raises(MomeError, match=f"^the language model {message}"):
        make("gemma3", text_config=config)
    with pytest.raises(MomeError, match=f"^the language model {tmp_path} {message}"):
        backbones.backbone_config("language_model", str(tmp_path))


def test_a_dense_model_whose_class_could_have_experts_is_taken():
    config = DogeConfig()
    assert config.num_experts > 1
    backbones.check_language_model(config)
    with pytest.raises(MomeError, match="itself a mixture"):
        backbones.check_language_model(DogeConfig(is_moe=True))


@pytest.mark.parametrize("size", SIZES)
def test_whisper_of_any_size_by_configuration(tmp_path: Path, size: str):
    bins, width = SIZES[size]
    config = WhisperConfig(
        d_model=width, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=bins
    )
    options = {"audio_config": config, "audio_context": "window", "video_config": None, "video_rates": ()}
    model = make("llama-2", **options)
    processor = MomeProcessor.for_config(model.config, tiny_tokenizer(), WhisperFeatureExtractor(feature_size=bins))
    mel, frames = processor.audio(torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy())
    batch = processor.pad_audio([(mel, frames)])
    assert batch["input_features"].shape == (1, bins, 3000)
    encoded = model.encode(**batch)
    assert encoded.audio.frames.shape == (1, 50, width)
    model.save_pretrained(tmp_path)
    again = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert torch.equal(again.encode(**batch).audio.frames, encoded.audio.frames)
    assert again.generate(encoded=encoded, rates=Rates(4, None), max_new_tokens=3).shape[0] == 1
