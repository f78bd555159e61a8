"""WavLM, HuBERT and AV-HuBERT as audio encoders: same interface, any batch, known costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperFeatureExtractor,
)

import mome
from mome import MomeError, MomeForSpeechRecognition, MomeProcessor, Transcriber
from mome.checkpoints.backbones import load_backbone
from mome.encoders import audio_encoder
from mome.encoders.avhubert import AVHubertConfig
from mome.media import Clip
from mome.model.cost import inference_cost
from mome.model.sequence import encoder_frames
from mome.rates import Rates
from tests.model.build import make_config
from tests.tiny import tiny_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (12,) * 7,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CONFIGS = {
    "wavlm-base": WavLMConfig(**SIZES),
    "wavlm-large": WavLMConfig(**SIZES, **LARGE),
    "hubert-base": HubertConfig(**SIZES),
    "hubert-large": HubertConfig(**SIZES, **LARGE),
    "avhubert": AVHubertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        resnet_width=2,
        conv_pos=8,
        conv_pos_groups=2,
    ),
}
WAVEFORM = [name for name in CONFIGS if name != "avhubert"]
SECONDS = {400: 1, 719: 1, 720: 2, 16000: 49, 16080: 50}


def clip(samples: int, seed: int = 0) -> Clip:
    audio = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    return Clip(audio, None, samples / 16000)


def recogniser(name: str, **options: Any) -> tuple[MomeForSpeechRecognition, MomeProcessor]:
    """A model that only hears, with its processor."""
    torch.manual_seed(0)
    values = {"audio_config": CONFIGS[name], "video_config": None, "video_rates": (), **options}
    model = MomeForSpeechRecognition(make_config(**values))
    for weight in model.audio_encoder.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=(weight[0].numel()) ** -0.5)
    return model, MomeProcessor.for_config(model.config, tiny_tokenizer())


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_do_not_depend_on_the_batch(name):
    model, processor = recogniser(name)
    clips = [clip(9000, 1), clip(16000, 2), clip(4321, 3)]
    together = model.encode(**processor(clips, video=False)).audio
    assert together.lengths.tolist() == [
        audio_encoder(CONFIGS[name]).frames(CONFIGS[name], len(one.audio)) for one in clips
    ]
    for row, one in enumerate(clips):
        alone, length = model.encode(**processor([one], video=False)).audio, int(together.lengths[row])
        torch.testing.assert_close(together.frames[row, :length], alone.frames[0], rtol=0, atol=2e-5)
        assert alone.frames.std() > 0.05
        assert not together.frames[row, length:].any()


@pytest.mark.parametrize("name", WAVEFORM)
def test_a_clip_by_itself_is_the_plain_model(name):
    model, _ = recogniser(name)
    plain = model.audio_encoder.encoder
    assert type(plain) is (WavLMModel if "wavlm" in name else HubertModel)
    wave = torch.from_numpy(clip(8000).audio)[None]
    with torch.no_grad():
        theirs = plain(wave).last_hidden_state
    ours = model.encode(wave[:, None], torch.ones_like(wave, dtype=torch.bool)).audio.frames
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_waveforms_are_normalised_and_counted():
    _, processor = recogniser("wavlm-base")
    loud, quiet = clip(5000), clip(5000)
    quiet.audio[:] = 0.01 * loud.audio + 0.3
    batch = processor([loud, quiet], video=False)
    assert batch["input_features"].shape == (2, 1, 5000)
    torch.testing.assert_close(batch["input_features"][0], batch["input_features"][1], rtol=0, atol=2e-3)
    assert abs(float(batch["input_features"].mean())) < 1e-3
    for samples, tokens in SECONDS.items():
        assert audio_encoder(CONFIGS["wavlm-base"]).frames(CONFIGS["wavlm-base"], samples) == tokens
    assert audio_encoder(CONFIGS["wavlm-base"]).frames(CONFIGS["wavlm-base"], 399) == 0
    assert [audio_encoder(CONFIGS[name]).frames_per_second(CONFIGS[name]) for name in ("hubert-large", "avhubert")] == [
        50,
        25,
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_that_are_counted(name):
    model, processor = recogniser(name)
    batch = processor([clip(32000)], video=False)
    frames, _ = encoder_frames(model.config, 2.0)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        assert model.encode(**batch).audio.lengths.item() == frames
    cost = inference_cost(model.config, Rates(4, None), frames, 0, 1)
    assert cost.audio_encoder == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", CONFIGS)
def test_from_folder_to_transcript(tmp_path: Path, name):
    model, processor = recogniser(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = mome.load(tmp_path)
    batch = processor([clip(9000)], video=False)
    torch.testing.assert_close(
        loaded.model.encode(**batch).audio.frames, model.encode(**batch).audio.frames, rtol=1e-4, atol=1e-5
    )
    assert loaded.processor.audio_input == processor.audio_input
    assert loaded.processor.longest_audio is None
    out = loaded.transcribe(clip(16000), rates="4,-", max_new_tokens=3)
    assert out.tokens.audio == audio_encoder(CONFIGS[name]).frames(CONFIGS[name], 16000) // 4
    assert out.tflops > 0
    with pytest.raises(MomeError, match="too little for audio rate 16"):
        loaded.transcribe(clip(320 * 16 if name != "avhubert" else 9000), rates="16,-")


def test_the_feature_extractors_own_settings_are_kept(tmp_path):
    model, _ = recogniser("hubert-large")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    MomeProcessor.for_config(model.config, tiny_tokenizer(), extractor).save_pretrained(tmp_path)
    read = MomeProcessor.from_pretrained(tmp_path)
    assert type(read.feature_extractor) is Wav2Vec2FeatureExtractor
    assert read.feature_extractor.do_normalize is False


def test_other_models_are_refused(tmp_path, tiny_model):
    with pytest.raises(MomeError, match="type llama, not one of avhubert, hubert, wavlm, whisper"):
        load_backbone("audio_encoder", str(tiny_model / "language_model"), None, torch.float32, {})


@pytest.mark.parametrize("name", CONFIGS)
def test_an_example_gives_the_tokens_it_is_for(name):
    kind = audio_encoder(CONFIGS[name])
    encoder = kind(kind.new(CONFIGS[name])).eval()
    assert encoder.hidden_size == 24
    for tokens in (1, 7):
        example = encoder.example(tokens)
        assert example.is_meta
        with torch.no_grad():
            assert encoder(torch.randn(example.shape)).frames.shape == (1, tokens, 24)


@pytest.mark.parametrize("samples", [1, 160, 399])
@pytest.mark.parametrize("name", [*CONFIGS, "whisper, window", "whisper, clip"])
def test_a_clip_without_a_token_is_refused_by_its_length(name, samples):
    if name in CONFIGS:
        model, processor = recogniser(name)
    else:
        model = MomeForSpeechRecognition(make_config(audio_context=name.split()[1]))
        sizes = {"feature_size": model.config.audio_config.num_mel_bins}
        sizes["chunk_length"] = model.config.audio_config.max_source_positions // 50
        processor = MomeProcessor.for_config(model.config, tiny_tokenizer(), WhisperFeatureExtractor(**sizes))
    for clips in ([clip(samples)], [clip(16000), clip(samples)]):
        with pytest.raises(
            MomeError, match=r"0\.0\d s of audio, too little for audio rate 4 \(it needs 0\.(08|16) s\)"
        ):
            Transcriber(model, processor).transcribe_batch(clips, [Rates(4, None)], max_new_tokens=2)
