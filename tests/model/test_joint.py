"""One AV-HuBERT that reads sound and lips together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from mome.config import MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.model.cost import cost_report, inference_cost, parameter_counts
from mome.model.sequence import count_tokens
from mome.rates import Rates
from tests.model.test_cost import flops

RATE, FRAMES, LABELS = 3, 20, torch.tensor([[5, 6, 2]])


def joint_config(**options: Any) -> MomeConfig:
    encoder = AVHubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        resnet_width=2,
        conv_pos=8,
        conv_pos_groups=4,
        image_size=16,
    )
    llama = LlamaConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    given: dict[str, Any] = {
        "video_config": encoder,
        "text_config": llama,
        "audio_rates": [RATE],
        "video_rates": [RATE],
        "compression": "stack",
        "projector_hidden": 10,
        "connector": {"type": "joint"},
        "tasks": ["avsr"],
        "prompt_ids": {"avsr": [3, 4]},
        "start_ids": [1],
        "audio_markers": [7, 8],  # which joint tokens do not have
    }
    return MomeConfig(**given | options)


def clip(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_features": torch.randn(1, 104, FRAMES, generator=generator),
        "pixel_values_videos": torch.randn(1, FRAMES, 16, 16, generator=generator),
    }


def awaken(encoder: torch.nn.Module) -> None:
    """Draw weights through which pictures and sound matter; a new ResNet gives next to nothing."""
    for value in encoder.parameters():
        if value.dim() > 1:
            torch.nn.init.kaiming_normal_(value)


def test_both_modalities_matter_and_only_the_projector_is_trained():
    torch.manual_seed(0)
    model, rates, inputs = MomeForSpeechRecognition(joint_config()), Rates(RATE, RATE), clip()
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained == [f"connector.audiovisual.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    output = model(**inputs, labels=LABELS, rates=rates)
    output.loss.backward()
    assert model.connector.audiovisual[0].weight.grad.abs().sum() > 0
    awaken(model.video_encoder)
    frames = model.encode(**inputs).video.frames
    for name, value in clip(seed=1).items():
        changed = model.encode(**{**inputs, name: value}).video.frames
        assert (changed - frames).abs().max() > 0.1


def test_tokens_operations_and_parameters_are_counted():
    config, rates = joint_config(), Rates(RATE, RATE)
    model, inputs = MomeForSpeechRecognition(config), clip()
    with torch.no_grad():
        encoded = model.encode(**inputs)
        (fed,) = model.prepare(encoded, [rates]).counts
    assert (fed.audio, fed.video, fed.fused, fed.prompt) == (0, 0, FRAMES // RATE, 3)
    assert count_tokens(config, rates, FRAMES, FRAMES) == fed
    cost = inference_cost(config, rates, FRAMES, FRAMES, new_tokens=1)
    assert cost.audio_encoder == 0
    assert cost.video_encoder == pytest.approx(flops(lambda: model.encode(**inputs)), rel=0.01)
    assert cost.projectors == pytest.approx(flops(lambda: model.connect(encoded, [rates])), rel=0.01)
    counts = parameter_counts(config)
    assert counts.projectors_total == counts.projectors_active == 16 * RATE * 10 + 10 + 10 * 8 + 8
    (plain,) = cost_report(config, seconds=1)["uncompressed"]
    assert plain["tokens"] == 25 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video_rates": [5]}, r"give audio_rates and video_rates the same one, not \[3\] and \[5\]"),
        ({"audio_rates": [3, 5], "video_rates": [3, 5]}, "one rate for sound and lips together"),
        ({"tasks": ["avsr", "vsr"]}, r"tasks=\['avsr', 'vsr'\] must be \[avsr\]"),
        ({"audio_encoder": "some/folder"}, "leave out audio_encoder"),
        ({"video_config": None}, "an AV-HuBERT, video_encoder, reads the sound"),
    ],
)
def test_what_it_cannot_be_is_refused(options, message):
    with pytest.raises(MomeError, match=message):
        MomeForSpeechRecognition(joint_config(**options))
