"""Tiny recognisers of every kind, with adapters far from their start, and random inputs for them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3Config, WhisperConfig

from mome.adapters import adapter_parameters
from mome.config import MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.model import MomeForSpeechRecognition
from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates

FAMILIES = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma3": Gemma3TextConfig, "gpt2": GPT2Config}
BANK = {"type": "mome", "routed_experts": 5, "shared_experts": 1, "top_k": 2, "bottleneck": 3}
ADAPTERS: dict[str, dict[str, Any] | None] = {
    "layer": {**BANK, "placement": "layer"},
    "attention": {**BANK, "placement": "attention"},
    "ffn": {**BANK, "placement": "ffn"},
    "lora": {"type": "lora", "bottleneck": 4},
    "none": None,
}
KINDS = [("llama", adapter) for adapter in ADAPTERS] + [
    ("qwen3", "layer"),
    ("gemma3", "layer"),
    ("gpt2", "none"),  # its positions are absolute
]
MIXTURE = {"type": "mixture", "experts": 4, "top_k": 2, "balance_weight": 0.5, "z_weight": 0.25}
QFORMER = {
    "type": "qformer",
    "queries_per_second": 5,
    "longest": 2,
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "inner": 24,
    "words_per_second": 2.0,
}
CONNECTORS: dict[str, dict[str, Any]] = {
    "projectors": {"connector": {"type": "projectors"}},
    "shared": {"connector": {"type": "shared"}},
    "shared-norm": {"connector": {"type": "shared"}, "projector_norm": True},
    "mixture-joint": {"connector": {**MIXTURE, "sharing": "joint"}, "width": 32},
    "mixture-experts": {"connector": {**MIXTURE, "sharing": "experts"}, "width": 32, "projector_norm": True},
    "mixture-none": {"connector": {**MIXTURE, "sharing": "none"}},
    "resampler": {"connector": {"type": "resampler", "queries": 12, "heads": 4}},
    "qformer": {"connector": {**QFORMER, "speech_rate": False}},
    "qformer-speech": {"connector": {**QFORMER, "speech_rate": True}},
}
VOCABULARY, PAD, START, END = 61, 0, 1, 2
MEL_BINS, SIDE = 10, 16
ALL_RATES = [Rates(4, 2), Rates(16, 5), Rates(4, None), Rates(16, None), Rates(None, 2), Rates(None, 5)]


def whisper(width: int = 24) -> WhisperConfig:
    """An audio encoder of this width."""
    return WhisperConfig(
        d_model=width,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=MEL_BINS,
        max_source_positions=200,
        dropout=0.3,
    )


Adapter = str | dict[str, Any] | None  # one of ADAPTERS, or its options


def make_config(family: str = "llama", adapter: Adapter = "layer", width: int = 24, **options: Any) -> MomeConfig:
    """Audio rates 4 and 16, video rates 2 and 5, markers around the audio only; ``width`` is the audio encoder's."""
    values: dict[str, Any] = {
        "audio_config": whisper(width),
        "video_config": AVHubertConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=40,
            resnet_width=2,
            conv_pos=6,
            conv_pos_groups=4,
            image_size=SIDE,
        ),
        "text_config": FAMILIES[family](
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            attention_dropout=0.3,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        ),
        "audio_context": "clip",
        "audio_rates": (4, 16),
        "video_rates": (2, 5),
        "projector_hidden": 20,
        "prompt_ids": {"avsr": [3, 4, 5], "asr": [3, 4], "vsr": [3, 5]},
        "start_ids": [START],
        "audio_markers": [6, 7],
        "adapter": ADAPTERS[adapter] if isinstance(adapter, str) else adapter,
    }
    return MomeConfig(**{**values, **options})


def make_model(family: str = "llama", adapter: Adapter = "layer", **options: Any) -> MomeForSpeechRecognition:
    """A new model with the same weights at each call; they spread enough for near ties to be rare."""
    torch.manual_seed(0)
    model = MomeForSpeechRecognition(make_config(family, adapter, **options))
    generator = torch.Generator().manual_seed(1)
    trained = [*adapter_parameters(model), *named_projectors(model)]
    for name, value in [*trained, *model.language_model.named_parameters()]:
        if value.dim() > 1:
            scale = 0.3 if "proj.lora" in name or ".mome." in name else 2 / value.shape[-1] ** 0.5
            value.data.copy_(scale * torch.randn(value.shape, generator=generator))
    return model


@functools.cache
def shared_model(family: str = "llama", adapter: str = "layer") -> MomeForSpeechRecognition:
    """A model that is only looked at."""
    return make_model(family, adapter)


@functools.cache
def connector_model(connector: str) -> MomeForSpeechRecognition:
    """A model with one of :data:`CONNECTORS` and no adapter that is only looked at."""
    return make_model("llama", "none", **CONNECTORS[connector])


def named_projectors(model: MomeForSpeechRecognition) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, value) for name, value in model.named_parameters() if "connector." in name]


def raw_inputs(lengths: list[tuple[int, int]], seed: int = 3) -> dict[str, torch.Tensor]:
    """Clips of so many mel frames and video frames, right-padded with zeros as the processor does."""
    generator = torch.Generator().manual_seed(seed)
    audio, video = (torch.tensor(side) for side in zip(*lengths, strict=True))
    audio_mask = torch.arange(int(audio.max())) < audio[:, None]
    video_mask = torch.arange(int(video.max())) < video[:, None]
    mel = torch.randn(len(lengths), MEL_BINS, audio_mask.shape[1], generator=generator)
    pixels = torch.randn(*video_mask.shape, SIDE, SIDE, generator=generator)
    return {
        "input_features": mel * audio_mask[:, None],
        "input_features_mask": audio_mask,
        "pixel_values_videos": pixels * video_mask[..., None, None],
        "pixel_values_videos_mask": video_mask,
    }


def one_clip(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One clip of a batch, without the padding."""
    row = {name: value[index : index + 1] for name, value in inputs.items()}
    audio, video = int(row["input_features_mask"].sum()), int(row["pixel_values_videos_mask"].sum())
    return {
        "input_features": row["input_features"][..., :audio],
        "input_features_mask": row["input_features_mask"][:, :audio],
        "pixel_values_videos": row["pixel_values_videos"][:, :video],
        "pixel_values_videos_mask": row["pixel_values_videos_mask"][:, :video],
    }


def transcripts(lengths: list[int], seed: int = 5) -> torch.Tensor:
    """Random labels of the given lengths (end token included), padded."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((len(lengths), max(lengths)), IGNORED_LABEL)
    for row, length in zip(labels, lengths, strict=True):
        row[:length] = torch.randint(8, VOCABULARY, (length,), generator=generator)
        row[length - 1] = END
    return labels
