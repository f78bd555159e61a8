"""AV-HuBERT against the numbers of the original implementation."""

from __future__ import annotations

import re

import pytest
import torch

from mome.adapters import LoraAdapterConfig, attach_lora
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel, stacked_log_filterbank
from mome.encoders.avhubert.frontend import VisualResNet

UNUSED = ("mask_emb", "label_embs_concat", "final_proj.")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def build(state: dict, sizes: dict) -> AVHubertModel:
    model = AVHubertModel(
        AVHubertConfig(
            hidden_size=sizes["encoder_embed_dim"],
            num_hidden_layers=sizes["encoder_layers"],
            num_attention_heads=sizes["encoder_attention_heads"],
            intermediate_size=sizes["encoder_ffn_embed_dim"],
            resnet_width=sizes["resnet_width"],
            conv_pos=sizes["conv_pos"],
            conv_pos_groups=sizes["conv_pos_groups"],
            audio_feature_size=sizes["audio_feat_dim"],
        )
    ).eval()
    used = {k: v for k, v in state.items() if not k.startswith(UNUSED) and "lora" not in k}
    model.load_state_dict(used, strict=True)
    return model


def add_lora(model: AVHubertModel, state: dict, scale: float) -> None:
    theirs = re.compile(r"\.lora_(down|up)_([QV])\.")
    ours = {
        theirs.sub(lambda m: f".{m[2].lower()}_proj.lora.{m[1]}.", key): value
        for key, value in state.items()
        if theirs.search(key)
    }
    bottleneck = len(ours["encoder.layers.0.self_attn.q_proj.lora.down.weight"])
    attach_lora(model.encoder.layers, LoraAdapterConfig(bottleneck, scale=scale))
    assert not model.load_state_dict(ours, strict=False).unexpected_keys
    assert len(ours) == 4 * len(model.encoder.layers)


def tokens_of(model: AVHubertModel, inputs: dict, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Our tokens for an output's name, and which of them count."""
    if name == "audio_only":
        tokens = model(input_features=inputs["audio_b"].transpose(1, 2)).frames
    elif name == "audiovisual":
        tokens = model(inputs["clip_b"][:, 0], input_features=inputs["audio_b"].transpose(1, 2)).frames
    elif name == "batch_masked":
        valid = ~inputs["padding_mask"]
        return model(inputs["batch"][:, 0], valid).frames, valid
    else:
        tokens = model(inputs[name.removesuffix("_unmasked")][:, 0]).frames
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


def check_encoder(golden) -> None:
    state, inputs, outputs, sizes = golden
    model = build(state, sizes)
    names = [key.removesuffix(".encoder_out") for key in outputs if key.endswith(".encoder_out")]
    assert names
    if sizes.get("lora"):
        plain, valid = tokens_of(model, inputs, names[0])
        add_lora(model, state, sizes["lora"]["scaling"])
        assert (plain - outputs[f"{names[0]}.encoder_out"])[valid].abs().max() > 1e-2
    for name in names:
        ours, valid = tokens_of(model, inputs, name)
        close(ours[valid], outputs[f"{name}.encoder_out"][valid])
    for key in outputs:
        if key.endswith(".resnet"):
            clip = inputs[key.removesuffix(".resnet")][:, 0]
            close(model.feature_extractor_video.resnet(clip).transpose(1, 2), outputs[key])


def check_resnet(golden) -> None:
    state, inputs, outputs, _ = golden
    resnet = VisualResNet(len(state["frontend3D.0.weight"])).eval()
    resnet.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    close(resnet(inputs["video"][:, 0].float()).transpose(1, 2), outputs["resnet"])


def check_log_filterbank(golden) -> None:
    _, inputs, outputs, _ = golden
    features = torch.from_numpy(stacked_log_filterbank(inputs["waveform"][:, 0].numpy()))
    close(features, outputs["features"])


@pytest.mark.golden("avhubert-")
@torch.no_grad()
def test_golden_avhubert(golden):
    if "encoder_layers" in golden.config:
        check_encoder(golden)
    elif "resnet" in golden.outputs:
        check_resnet(golden)
    else:
        check_log_filterbank(golden)


def test_a_clip_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    config = AVHubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, resnet_width=4
    )
    model = AVHubertModel(config).eval()
    short, long = torch.randn(1, 9, 24, 24), torch.randn(1, 21, 24, 24)
    batch = torch.zeros(2, 21, 24, 24)
    batch[0, :9], batch[1] = short[0], long[0]
    mask = torch.arange(21)[None] < torch.tensor([[9], [21]])
    with torch.no_grad():
        together = model(batch, mask)
        torch.testing.assert_close(together.frames[:1, :9], model(short).frames, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.frames[1:], model(long).frames, atol=1e-5, rtol=0)
    assert together.lengths.tolist() == [9, 21]
    assert (together.frames[0, 9:] == 0).all()


def test_new_weights_are_drawn_as_transformers_does():
    torch.manual_seed(0)
    model = AVHubertModel(AVHubertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, resnet_width=4))
    linear, positions = model.encoder.layers[0].fc1, model.encoder.pos_conv[0]
    assert linear.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.05)
    assert not linear.bias.any()
    assert not positions.bias.any()
    norms = positions.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
    assert positions.weight_g.shape == norms.shape
    torch.testing.assert_close(positions.weight_g, norms, rtol=0.2, atol=0)


def test_needs_a_modality():
    model = AVHubertModel(AVHubertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, resnet_width=2))
    with pytest.raises(ValueError, match="video frames, audio features or both"):
        model()
