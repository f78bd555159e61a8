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


def build(state, meta):
    c = meta["config"]
    config = AVHubertConfig(
        hidden_size=c["encoder_embed_dim"],
        num_hidden_layers=c["encoder_layers"],
        num_attention_heads=c["encoder_attention_heads"],
        intermediate_size=c["encoder_ffn_embed_dim"],
        resnet_width=c["resnet_width"],
        conv_pos=c["conv_pos"],
        conv_pos_groups=c["conv_pos_groups"],
        audio_feature_size=c["audio_feat_dim"],
    )
    model = AVHubertModel(config).eval()
    used = {k: v for k, v in state.items() if not k.startswith(UNUSED) and "lora" not in k}
    model.load_state_dict(used, strict=True)
    return model


def check_all(model, inputs, outputs):
    with torch.no_grad():
        for clip in ("clip_a", "clip_b"):
            close(model(inputs[clip][:, 0]).tokens, outputs[f"{clip}.encoder_out"])
        batch, padding = inputs["batch"][:, 0], inputs["padding_mask"]
        close(model(batch).tokens, outputs["batch_unmasked.encoder_out"])
        masked = model(batch, ~padding)
        close(masked.tokens[~padding], outputs["batch_masked.encoder_out"][~padding])
        audio = inputs["audio_b"].transpose(1, 2)
        close(model(input_features=audio).tokens, outputs["audio_only.encoder_out"])
        close(model(inputs["clip_b"][:, 0], input_features=audio).tokens, outputs["audiovisual.encoder_out"])


def test_golden_avhubert_video(golden):
    state, inputs, outputs, meta = golden("avhubert-video")
    model = build(state, meta)
    check_all(model, inputs, outputs)
    with torch.no_grad():
        resnet = model.feature_extractor_video.resnet(inputs["clip_a"][:, 0])
    close(resnet.transpose(1, 2), outputs["clip_a.resnet"])


def test_golden_avhubert_video_lora(golden):
    state, inputs, outputs, meta = golden("avhubert-video-lora")
    model = build(state, meta)
    lora = LoraAdapterConfig(meta["config"]["encoder_embed_dim"] // 16, scale=meta["config"]["lora"]["scaling"])
    attach_lora(model.encoder.layers, lora)
    with torch.no_grad():
        plain = model(inputs["clip_a"][:, 0]).tokens
    theirs = re.compile(r"\.lora_(down|up)_([QV])\.")
    ours = {
        theirs.sub(lambda m: f".{m[2].lower()}_proj.lora.{m[1]}.", key): value
        for key, value in state.items()
        if theirs.search(key)
    }
    assert not model.load_state_dict(ours, strict=False).unexpected_keys
    assert len(ours) == 4 * len(model.encoder.layers)
    check_all(model, inputs, outputs)
    assert (plain - outputs["clip_a.encoder_out"]).abs().max() > 1e-2


def test_golden_avhubert_resnet18_full(golden):
    state, inputs, outputs, _ = golden("avhubert-resnet18-full")
    resnet = VisualResNet(64).eval()
    resnet.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    with torch.no_grad():
        close(resnet(inputs["video"][:, 0].float()).transpose(1, 2), outputs["resnet"])


def test_golden_avhubert_logfbank(golden):
    _, inputs, outputs, _ = golden("avhubert-logfbank")
    features = torch.from_numpy(stacked_log_filterbank(inputs["waveform"][:, 0].numpy()))
    close(features, outputs["features"])


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
        torch.testing.assert_close(together.tokens[:1, :9], model(short).tokens, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.tokens[1:], model(long).tokens, atol=1e-5, rtol=0)
    assert together.lengths.tolist() == [9, 21]
    assert (together.tokens[0, 9:] == 0).all()


def test_needs_a_modality():
    model = AVHubertModel(AVHubertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, resnet_width=2))
    with pytest.raises(ValueError, match="video frames, audio features or both"):
        model()
