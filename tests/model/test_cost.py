from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, WhisperConfig

from mome.adapters import adapter_parameters
from mome.config import MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.features import Features
from mome.model.cost import Cost, inference_cost, parameter_counts
from mome.model.model import EncodedClips, MomeForSpeechRecognition
from mome.model.sequence import encoder_frames
from mome.rates import Rates
from tests.model import build

AUDIO, VIDEO, NEW, WINDOW = 37, 19, 6, 200
BANKS = {name: {**build.BANK, "shared_experts": 2, "placement": name} for name in ("layer", "attention", "ffn")}
LORA = {"type": "lora", "bottleneck": 4, "targets": ["q_proj", "v_proj", "down_proj"]}
ADAPTERS: dict[str, dict[str, Any] | None] = {"none": None, **BANKS, "lora": LORA}
FAMILIES = ("llama", "qwen3", "gemma3")
ALL_RATES = [Rates(4, 2), Rates(16, 5), Rates(4, None), Rates(None, 5)]


def make_config(family: str = "llama", adapter: str = "none", **options: Any) -> MomeConfig:
    """Layers are counted, so there are two of each."""
    config = build.make_config(family, ADAPTERS[adapter], **{"audio_context": "window", **options})
    config.audio_config.encoder_layers = config.video_config.num_hidden_layers = 2
    return config


@cache
def make_model(family: str = "llama", adapter: str = "none", **options: Any) -> MomeForSpeechRecognition:
    torch.manual_seed(0)
    return MomeForSpeechRecognition(make_config(family, adapter, **options))


def flops(run: Callable[[], Any]) -> int:
    # Only PyTorch's plain attention consists of operations that the counter knows on every device.
    kernel: AbstractContextManager = sdpa_kernel(SDPBackend.MATH)
    products = {torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}
    with torch.no_grad(), kernel, FlopCounterMode(display=False, custom_mapping=products) as counter:
        run()
    return counter.get_total_flops()


def test_it_is_the_same_in_inference_mode():
    config = make_config("qwen3", "layer", audio_context="clip")  # of which no other test has kept anything
    config.text_config.intermediate_size += 8
    config.audio_config.encoder_ffn_dim += 8
    with torch.inference_mode():
        inside = inference_cost(config, Rates(4, None), AUDIO, 0, NEW)
    config.text_config.intermediate_size += 8
    config.audio_config.encoder_ffn_dim += 8
    more = inference_cost(config, Rates(4, None), AUDIO, 0, NEW)
    config.text_config.intermediate_size -= 16
    config.audio_config.encoder_ffn_dim -= 16
    less = inference_cost(config, Rates(4, None), AUDIO, 0, NEW)
    # Both grow by as much with each eight hidden units.
    assert inside.prefill - less.prefill == more.prefill - inside.prefill > 0
    assert inside.audio_encoder - less.audio_encoder == more.audio_encoder - inside.audio_encoder > 0
    assert inside.decode > less.decode > 0


def features(frames: int, width: int) -> Features:
    return Features(torch.randn(1, frames, width), torch.tensor([frames]))


def encoded(rates: Rates) -> EncodedClips:
    return EncodedClips(
        None if rates.audio is None else features(AUDIO, 24),
        None if rates.video is None else features(VIDEO, 32),
    )


def generation_flops(model: MomeForSpeechRecognition, rates: Rates, beams: int = 1, new: int = NEW) -> int:
    clips = encoded(rates)
    projected = flops(lambda: model.prepare(clips, [rates]))
    options = {"max_new_tokens": new, "min_new_tokens": new, "num_beams": beams, "pad_token_id": 0}
    return flops(lambda: model.generate(encoded=clips, rates=rates, **options)) - projected


def generation_tokens(model: MomeForSpeechRecognition, rates: Rates) -> int:
    """Those that the language model reads, the written ones but the last among them."""
    return model.prepare(encoded(rates), [rates]).embeddings.shape[1] + NEW - 1


def cost(model: MomeForSpeechRecognition, rates: Rates, new: int = NEW, beams: int = 1) -> Cost:
    return inference_cost(model.config, rates, AUDIO, VIDEO, new, beams)


@pytest.mark.parametrize("context", ["window", "clip"])
def test_audio_encoder(context):
    model = make_model(audio_context=context)
    frames = 2 * (WINDOW if context == "window" else AUDIO)
    mask = torch.arange(frames)[None] < 2 * AUDIO
    counted = flops(lambda: model.encode(torch.randn(1, 10, frames), mask))
    assert cost(model, Rates(4, 2)).audio_encoder == pytest.approx(counted, rel=0.01)
    assert cost(model, Rates(None, 2)).audio_encoder == 0


def test_silence_after_a_clip_is_counted():
    config = make_config(audio_context="clip+silence")
    config.audio_config.max_source_positions = 150
    model = MomeForSpeechRecognition(config)
    mask = torch.arange(2 * AUDIO + 100)[None] < 2 * AUDIO
    counted = flops(lambda: model.encode(torch.randn(1, 10, 2 * AUDIO + 100), mask))
    assert cost(model, Rates(4, 2)).audio_encoder == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(("image", "kernel"), [(44, 8), (88, 8), (35, 7)])
def test_video_encoder(image, kernel):
    config = make_config()
    config.video_config.image_size, config.video_config.conv_pos = image, kernel
    model = MomeForSpeechRecognition(config)
    pixels = torch.randn(1, VIDEO, image, image)
    counted = flops(lambda: model.encode(None, None, pixels, torch.ones(1, VIDEO, dtype=torch.bool)))
    assert cost(model, Rates(4, 2)).video_encoder == pytest.approx(counted, rel=0.01)
    assert cost(model, Rates(4, None)).video_encoder == 0


@pytest.mark.parametrize("rates", ALL_RATES, ids=str)
@pytest.mark.parametrize("compression", ["average", "stack"])
def test_projectors(compression, rates):
    model = make_model(compression=compression)
    counted = flops(lambda: model.prepare(encoded(rates), [rates]))
    assert cost(model, rates).projectors == counted


@pytest.mark.parametrize("rates", ALL_RATES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_language_model(family, rates):
    model = make_model(family)
    assert cost(model, rates, new=1).prefill == pytest.approx(generation_flops(model, rates, new=1), rel=0.01)
    expected = cost(model, rates)
    assert expected.adapters == 0
    steps = generation_flops(model, rates) - generation_flops(model, rates, new=1)
    assert expected.decode == pytest.approx(steps, rel=0.01)


@pytest.mark.parametrize("window", [16, 40])  # passed while reading, and while writing
@pytest.mark.parametrize("family", [Gemma3TextConfig, MistralConfig])
@pytest.mark.slow
def test_layers_with_a_sliding_window_forget(family, window):
    sizes = {"vocab_size": build.VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    model = MomeForSpeechRecognition(make_config(text_config=family(**sizes, sliding_window=window)))
    rates, new = Rates(4, 2), 80
    prefill, both = (generation_flops(model, rates, new=count) for count in (1, new))
    expected = cost(model, rates, new=new)
    assert expected.prefill == pytest.approx(prefill, rel=0.01)
    assert expected.decode == pytest.approx(both - prefill, rel=0.01)
    model.config.text_config.sliding_window = 1000
    assert cost(model, rates, new=new).decode > 1.05 * expected.decode


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "none"])
def test_adapters(adapter):
    rates = Rates(4, 2)
    model = make_model(adapter=adapter)
    added = generation_flops(model, rates) - generation_flops(make_model(), rates)
    assert cost(model, rates).adapters == pytest.approx(added, rel=0.01)
    assert replace(cost(model, rates), adapters=0) == cost(make_model(), rates)


@pytest.mark.parametrize("placement", BANKS)
def test_a_chosen_number_of_experts_counts_those_alone(placement):
    """They cost what a bank of so many costs, plus the router's products for those that are not chosen."""
    rates, model = Rates(4, 2), make_model(adapter=placement)
    for top_k in (1, 3, 5):
        bank = {**BANKS[placement], "routed_experts": top_k, "top_k": top_k}
        smaller = build.make_model(adapter=bank, audio_context="window")
        counted = generation_flops(smaller, rates) - generation_flops(make_model(), rates)
        tokens = generation_tokens(model, rates)
        router = tokens * 3 * 2 * 32 * (5 - top_k)  # layers, width
        found = inference_cost(model.config, rates, AUDIO, VIDEO, NEW, top_k=top_k)
        assert found.adapters == pytest.approx(counted + router, rel=0.01)
        assert replace(found, adapters=0) == replace(cost(model, rates), adapters=0)
    assert found == cost(model, rates), "all experts are computed, so all are counted by default"


@pytest.mark.parametrize("adapter", ["none", "layer", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_beam_search(family, adapter):
    rates, model, beams = Rates(4, 2), make_model(family, adapter), 4
    expected = cost(model, rates, beams=beams)
    counted = generation_flops(model, rates, beams=beams)
    if family == "llama":  # masked attention to what other beams wrote: layers, products with keys and values, heads
        masked = sum((beams - 1) * step for step in range(1, NEW))
        counted -= beams * masked * 3 * 2 * (2 * 4 * 8)
    assert expected.prefill + expected.decode + expected.adapters == pytest.approx(counted, rel=0.01)
    readings = 1 if family == "llama" else beams
    assert expected.prefill == readings * cost(model, rates).prefill


def test_the_total_is_that_of_a_whole_transcription():
    rates, model = Rates(4, 2), make_model(adapter="ffn")
    inputs = {
        "input_features": torch.randn(1, 10, 2 * WINDOW),
        "input_features_mask": torch.arange(2 * WINDOW)[None] < 2 * AUDIO,
        "pixel_values_videos": torch.randn(1, VIDEO, build.SIDE, build.SIDE),
        "pixel_values_videos_mask": torch.ones(1, VIDEO, dtype=torch.bool),
    }
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
    counted = flops(lambda: model.generate(**inputs, rates=rates, **options))
    assert cost(model, rates).total == pytest.approx(counted, rel=0.01)
    assert cost(model, rates).tflops == cost(model, rates).total / 1e12


def test_a_clip_without_words_costs_its_prefill():
    assert cost(make_model(), Rates(4, 2), new=1).decode == cost(make_model(), Rates(4, 2), new=0).decode == 0


def test_encoder_frames():
    config = make_config()
    assert encoder_frames(config, 10) == (500, 250)
    assert encoder_frames(config, 0.58) == (29, 14)
    assert encoder_frames(config, 2.999) == (149, 74)
    assert encoder_frames(config, 0) == (0, 0)


@pytest.mark.parametrize("compression", ["average", "stack"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_parameter_counts(adapter, compression):
    model = make_model(adapter=adapter, compression=compression)
    counts = parameter_counts(model.config)
    assert counts.adapter_total == sum(p.numel() for _, p in adapter_parameters(model))
    assert counts.adapter_active <= counts.adapter_total
    projectors = [*model.connector.audio.parameters(), *model.connector.video.parameters()]
    assert counts.projectors_total == sum(p.numel() for p in projectors)
    assert counts.frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    active = [model.connector.audio.projector(16), model.connector.video.projector(5)]
    assert counts.projectors_active == sum(p.numel() for projector in active for p in projector.parameters())


def test_parameter_counts_of_one_modality():
    config = make_config()
    config.video_config = None
    counts = parameter_counts(config)
    assert counts.projectors_total == 2 * counts.projectors_active
    assert counts.adapter_total == counts.adapter_active == 0


def test_published_scale():
    """Llama-3.2-1B with Whisper-small's window: figures known from the published systems."""
    config = make_config(adapter="attention")
    config.audio_config = WhisperConfig(
        d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072
    )
    config.video_config = AVHubertConfig()
    config.text_config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=True,
    )
    config.adapter = {"type": "mome"}
    counts = parameter_counts(config)
    assert counts.adapter_active == pytest.approx(3.5e6, rel=0.02)
    assert counts.frozen == pytest.approx(1.236e9 + 88e6 + 325e6, rel=0.02)
    encoding = inference_cost(config, Rates(4, 2), 250, 125, 20).audio_encoder
    assert encoding == pytest.approx(0.344e12, rel=0.01)
