"""Names and shapes of the published recognisers at their real sizes, without any weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig

from mome.config import MomeConfig
from mome.convert.avhubert import PRETRAINING
from mome.convert.avsr import Sources, fit, read_config
from mome.convert.avsr_file import state_dict
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.training.loading import SHIPPED

PUBLISHED = {
    "llama-avsr-ASR-8B-stack-A3": ("meta-llama/Llama-3.1-8B", "asr", [3], []),
    "llama-avsr-AVSR-8B-stack-A4-V2": ("meta-llama/Llama-3.1-8B", "avsr", [4], [2]),
    "llama-avsr-VSR-3B-avg5-ln-lora": ("meta-llama/Llama-3.2-3B", "vsr", [], [5]),
    "llama-avsr-VSR-8B-stack-V3-lora": ("meta-llama/Llama-3.1-8B", "vsr", [], [3]),
    "llama-mtsk-1B-avg-A4.16-V2.5": ("meta-llama/Llama-3.2-1B", "avsr", [4, 16], [2, 5]),
    "llama-smop-1B": ("meta-llama/Llama-3.2-1B", "avsr", [4], [2]),
    "omni-avsr-S-1B": ("meta-llama/Llama-3.2-1B", "avsr asr vsr", [4, 16], [2, 5]),
    "omni-avsr-ST-1B": ("meta-llama/Llama-3.2-1B", "avsr asr vsr", [4, 16], [2, 5]),
    "omni-avsr-T-1B": ("meta-llama/Llama-3.2-1B", "avsr asr vsr", [4, 16], [2, 5]),
}
ADDED = 5
every = pytest.mark.parametrize("name", PUBLISHED)


def schema(shared: Path, name: str) -> dict:
    return json.loads((shared / "golden" / f"schema-{name}.json").read_text())


def weightless(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take no memory."""
    kinds = {True: torch.int64, False: torch.bfloat16}
    return {key: torch.zeros((), dtype=kinds[key.endswith("tracked")]).expand(shape) for key, shape in shapes.items()}


def described(name: str, shapes: dict[str, list[int]], folder: Path) -> tuple[MomeConfig, dict[str, torch.Tensor]]:
    """The configuration that the converter reads from names and shapes, and tensors of those shapes."""
    language_model, tasks, audio, video = PUBLISHED[name]
    known = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())
    AutoConfig.for_model(**known[language_model]).save_pretrained(folder)
    sources = Sources(str(folder))
    state = weightless(shapes)
    config, _ = read_config("-".join(name.split("-")[:2]), state, sources, name)
    assert (config.audio_rates, config.video_rates, " ".join(config.tasks)) == (audio, video, tasks)
    assert config.compression == ("stack" if "stack" in name else "average")
    config.added_tokens = ADDED
    return config, state


@every
def test_names_and_shapes_are_ours_at_real_size(shared, tmp_path, name):
    found = schema(shared, name)
    config, state = described(name, found["keys"], tmp_path)
    model, weights = fit(config, state, name)  # which compares them
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == found["trainable_params"]
    pretraining = [key for key in state if key.startswith("prompt_") or key.split(".")[1] in PRETRAINING]
    specific = 2 if name in ("omni-avsr-ST-1B", "omni-avsr-T-1B") else 0  # of each three two vanish by stacking
    stacked = sum("lora_" in key and key.split(".")[-2] == "audio" for key in state)
    assert len(weights) == len(state) - len(pretraining) - specific * stacked
    if config.video_config is not None:
        large = AVHubertConfig()
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_pos_groups")
        assert all(getattr(config.video_config, size) == getattr(large, size) for size in sizes)
    if config.audio_config is not None:
        whisper = config.audio_config
        assert (whisper.encoder_layers, whisper.encoder_attention_heads, whisper.encoder_ffn_dim) == (24, 16, 4096)
    assert config.adapter["bottleneck"] == (96 if "3B" in name else 64)
    assert (config.video_adapter is not None) == (name.endswith("lora") or "omni" in name)
    assert config.projector_norm == ("ln" in name or "mtsk" in name or "smop" in name)


OMNI, MTSK, SMOP = "omni-avsr-ST-1B", "llama-mtsk-1B-avg-A4.16-V2.5", "llama-smop-1B"
STACK = "llama-avsr-AVSR-8B-stack-A4-V2"


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        (STACK, "video_encoder.layer_norm.weight", None),
        (STACK, "audio_encoder.conv1.weight", None),
        (STACK, "audio_encoder.layers.23.fc1.weight", (1024, 8192)),
        (STACK, "video_encoder.feature_extractor_video.proj.weight", None),
        (STACK, "video_encoder.encoder.layers.0.fc1.weight", ()),
        (STACK, "video_encoder.encoder.pos_conv.0.weight_v", (3,)),
        (STACK, "audio_proj.0.weight", None),
        (STACK, "audio_proj.0.weight", (2048, 1500)),
        (STACK, "video_proj.2.weight", (4096, 4096)),
        (MTSK, "audio_proj.1.0.weight", (2048, 2048)),
        (MTSK, "video_proj.0.0.weight", None),
        (SMOP, "audiovisual_proj.gate.weight", None),
        (SMOP, "audiovisual_proj.experts.2.0.weight", (2048, 2048)),
        (OMNI, "llm.model.layers.3.self_attn.lora_down_Q.video.weight", None),
        (OMNI, "llm.model.layers.3.self_attn.lora_up_V_shared.weight", (512, 7)),
        (OMNI, "prompt_video", None),
        (OMNI, "prompt_video", (6, 1, 2048)),
        (OMNI, "prompt_video", ()),
    ],
)
def test_one_list_has_all_that_does_not_fit(shared, tmp_path, name, key, shape):
    shapes = schema(shared, name)["keys"]
    described(name, shapes, tmp_path)
    changed = {key: shape, "stray.x": (1,), "llm.model.norm.weight": (3,)}
    state = weightless({one: there for one, there in (shapes | changed).items() if there is not None})
    system = "-".join(name.split("-")[:2])
    state, _ = state_dict(state, system, "a.pth")
    config, _ = read_config(system, state, Sources(str(tmp_path)), "a.pth")
    config.added_tokens = ADDED
    with pytest.raises(MomeError, match=r"^a\.pth .* \(3 differences\): ") as caught:
        fit(config, state, "a.pth")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{key} is {'missing' if shape is None else f'{shape} instead of'}" in message
    assert "stray.x is unknown" in message
    assert "llm.model.norm.weight is (3,) instead of" in message


def test_avhubert_large_is_our_default(shared):
    shapes = schema(shared, "avhubert-large")
    with torch.device("meta"):
        ours = {key: list(value.shape) for key, value in AVHubertModel(AVHubertConfig()).state_dict().items()}
    assert ours == {key: shape for key, shape in shapes.items() if key.split(".")[0] not in PRETRAINING}


def test_avhubert_for_sound_at_real_size(shared, tmp_path):
    name = "llama-avsr-ASR-8B-stack-A3"
    of_whisper, large = schema(shared, name)["keys"], schema(shared, "avhubert-large")
    shapes = {key: shape for key, shape in of_whisper.items() if not key.startswith("audio_encoder.")}
    shapes |= {f"audio_encoder.{key}": shape for key, shape in large.items()}
    config, state = described(name, shapes, tmp_path)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_pos_groups")
    assert all(getattr(config.audio_config, size) == getattr(AVHubertConfig(), size) for size in sizes)
    _, weights = fit(config, state, name)
    assert len(weights) == len(state) - sum(key.split(".")[0] in PRETRAINING for key in large)


@pytest.mark.parametrize("joint", [True, False])
def test_fused_avhubert_at_real_size(shared, tmp_path, joint):
    name = "llama-avsr-VSR-8B-stack-V3-lora"
    of_video = schema(shared, name)["keys"]
    shapes = {key.replace("video_encoder.", "audiovisual_encoder."): shape for key, shape in of_video.items()}
    projector = [key for key in shapes if key.startswith("video_proj.")]
    for key in projector:
        shapes[key.replace("video", "audiovisual" if joint else "audio")] = shapes[key]
    shapes = {key: shape for key, shape in shapes.items() if not (joint and key in projector)}
    language_model = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())["meta-llama/Llama-3.1-8B"]
    AutoConfig.for_model(**language_model).save_pretrained(tmp_path)
    config, _ = read_config("llama-avsr", state := weightless(shapes), Sources(str(tmp_path)), name)
    assert (config.audio_rates, config.video_rates, config.tasks) == ([3], [3], ["avsr"])
    assert config.video_adapter["bottleneck"] == 64
    config.added_tokens = ADDED
    model, weights = fit(config, state, name)
    assert (model.audio_encoder is None) == joint
    merged = weights.get("audio_encoder.encoder.encoder.layers.23.self_attn.v_proj.weight")
    assert joint == (merged is None)


@pytest.mark.parametrize(
    "name",
    ["llama-avsr-AVSR-8B-stack-A4-V2", "llama-avsr-VSR-3B-avg5-ln-lora", "llama-smop-1B", "omni-avsr-ST-1B"],
)
@torch.no_grad()
@pytest.mark.slow
def test_a_pass_at_real_width_with_few_layers(shared, tmp_path, name):
    config, _ = described(name, schema(shared, name)["keys"], tmp_path)
    config.text_config.num_hidden_layers, config.text_config.vocab_size = 1, 200
    for part in ("audio_config", "video_config"):
        if getattr(config, part) is not None:
            getattr(config, part).num_hidden_layers = 1
    config.prompt_ids, config.start_ids = dict.fromkeys(config.tasks, (1, 2, 3)), [0]
    config.audio_markers, config.video_markers = [201, 202], [203, 204]
    model = MomeForSpeechRecognition(config).to(torch.bfloat16)
    inputs = {}
    if config.audio_rates:
        inputs["input_features"] = torch.randn(1, 80, 3000)
        inputs["input_features_mask"] = torch.arange(3000)[None] < 80
    if config.video_rates:
        inputs["pixel_values_videos"] = torch.randn(1, 20, 88, 88)
    rates = next(config.rate_set.rates())
    encoded = model.encode(**inputs)
    output = model(encoded=encoded, rates=rates, labels=torch.tensor([[5, 6, 7]]))
    assert output.logits.shape == (1, 3, 205)
    assert output.logits.isfinite().all()
    assert model.generate(encoded=encoded, rates=rates, max_new_tokens=2).shape[0] == 1
