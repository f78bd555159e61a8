from __future__ import annotations

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from mome.checkpoints.backbones import load_backbone
from mome.convert import writing
from mome.convert.avhubert import NOTICE, convert, describe, encoder_settings, read_encoder
from mome.convert.unpickle import read_checkpoint
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel, stacked_log_filterbank
from mome.errors import MomeError
from tests.convert.fairseq import SETTINGS, TASK, container, fine_tuned, save, tiny_config, tiny_state


@pytest.fixture
def checkpoint(tmp_path, foreign):
    """``checkpoint(state)`` → a file as published; ``model`` and ``task`` are settings, ``legacy`` the old format."""

    def make(state, model=SETTINGS, task=TASK, legacy=False):
        return save(container(foreign, state, model, task), tmp_path / "large.pt", legacy)

    return make


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def clips() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two clips of 7 and 12 frames: mouths, their sound's features, and the mask."""
    generator = torch.Generator().manual_seed(1)
    waves = [torch.randn(640 * 12 - 240, generator=generator).numpy() for _ in range(2)]
    sound = torch.stack([torch.from_numpy(stacked_log_filterbank(wave)) for wave in waves])
    mask = torch.arange(12) < torch.tensor([[7], [12]])
    return torch.randn(2, 12, 24, 24, generator=generator) * mask[..., None, None], sound, mask


@torch.no_grad()
def check_same(ours: AVHubertModel, theirs: AVHubertModel) -> None:
    video, sound, mask = clips()
    for inputs in (
        {"pixel_values_videos": video},
        {"input_features": sound},
        {"pixel_values_videos": video, "input_features": sound},
    ):
        for chosen in (None, mask):
            found, wanted = (model.eval()(**inputs, pixel_values_videos_mask=chosen) for model in (ours, theirs))
            close(found.frames, wanted.frames)
            assert found.lengths.tolist() == ([12, 12] if chosen is None else [7, 12])


def original(state: dict[str, torch.Tensor]) -> AVHubertModel:
    model = AVHubertModel(tiny_config())
    model.load_state_dict({key: value for key, value in state.items() if key in model.state_dict()})
    return model


@pytest.mark.golden("avhubert-video")
@torch.no_grad()
def test_golden_outputs_through_a_converted_folder(golden, checkpoint, tmp_path):
    state, inputs, outputs, settings = golden
    settings = {key: value for key, value in settings.items() if key not in ("lora", "resnet_width")}
    if golden.config["lora"]:
        with pytest.raises(MomeError, match="LoRA"):
            convert(checkpoint(state, settings), tmp_path / "refused")
        return
    account = convert(checkpoint(state, settings), tmp_path / "out")
    assert (account.used, account.tensors) == (len(state) - 4, len(state))
    model = AVHubertModel.from_pretrained(tmp_path / "out").eval()
    for clip in ("clip_a", "clip_b"):
        close(model(inputs[clip][:, 0]).frames, outputs[f"{clip}.encoder_out"])
    batch, padding = inputs["batch"][:, 0], inputs["padding_mask"]
    close(model(batch).frames, outputs["batch_unmasked.encoder_out"])
    close(model(batch, ~padding).frames[~padding], outputs["batch_masked.encoder_out"][~padding])
    sound = inputs["audio_b"].transpose(1, 2)
    close(model(input_features=sound).frames, outputs["audio_only.encoder_out"])
    close(model(inputs["clip_b"][:, 0], input_features=sound).frames, outputs["audiovisual.encoder_out"])


def test_every_tensor_of_large_is_accounted_for(shared):
    shapes = json.loads((shared / "golden" / "schema-avhubert-large.json").read_text())
    state = {
        key: torch.zeros((), dtype=torch.int64 if key.endswith("tracked") else torch.float16).expand(shape)
        for key, shape in shapes.items()
    }
    encoder = read_encoder(state, {}, "large_vox_iter5.pt")
    config = encoder.config
    assert len(state) == 538
    assert len(encoder.state) + sum(one.tensors for one in encoder.unused) == 538
    assert [one.name for one in encoder.unused] == ["mask_emb", "label_embs_concat", "final_proj.*"]
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (24, 16, 4096)
    assert (config.conv_pos, config.conv_pos_groups, config.resnet_width) == (128, 16, 64)
    assert "AV-HuBERT Large" in describe(config)


def test_base_is_told_by_its_shapes():
    config = AVHubertConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    with torch.device("meta"):
        expected = AVHubertModel(config).state_dict()
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in expected.items()}
    found = read_encoder(state, {}, "base.pt")
    assert (found.config.num_attention_heads, found.config.intermediate_size) == (12, 3072)
    assert "AV-HuBERT Base" in describe(found.config)
    assert found.notes == ("not in the file, so assumed: 12 heads of 64, norms before the layers",)


@pytest.mark.parametrize("legacy", [False, True])
def test_pretrained(checkpoint, tmp_path, legacy):
    state = tiny_state()
    account = convert(checkpoint(state, legacy=legacy), tmp_path / "out")
    assert account.tensors == len(state)
    assert {one.name: one.tensors for one in account.unused} == {
        "mask_emb": 1,
        "label_embs_concat": 1,
        "final_proj.*": 2,
    }
    assert account.notes == ()
    model = AVHubertModel.from_pretrained(tmp_path / "out")
    check_same(model, original(state))
    assert model.config.to_diff_dict() | {"transformers_version": ""} == AutoConfig.from_pretrained(
        tmp_path / "out"
    ).to_diff_dict() | {"transformers_version": ""}
    wanted = tiny_config()
    wanted.notice = NOTICE
    assert all(getattr(model.config, key) == getattr(wanted, key) for key in AVHubertConfig.__annotations__)
    assert isinstance(load_backbone("video_encoder", str(tmp_path / "out"), None, torch.float32, {}), AVHubertModel)


@pytest.mark.parametrize("rows", [4, 504, 2004])
def test_any_number_of_label_rows_will_do(checkpoint, tmp_path, rows):
    assert convert(checkpoint(tiny_state(rows)), tmp_path / "out").tensors == len(tiny_state())


def test_fine_tuned(checkpoint, tmp_path):
    state = tiny_state()
    outer = {"_name": "av_hubert_seq2seq", "decoder_layers": 6, "dropout": 0.0}
    model = outer | {"w2v_args": {"model": SETTINGS, "task": TASK | {"image_mean": 0.9}}}
    account = convert(checkpoint(fine_tuned(state), model), tmp_path / "out")
    assert {one.name: one.tensors for one in account.unused} == {
        "mask_emb": 1,
        "label_embs_concat": 1,
        "encoder.proj.*": 1,
        "decoder.*": 2,
    }
    converted = AVHubertModel.from_pretrained(tmp_path / "out")
    check_same(converted, original(state))
    # The task that it was last trained for says what its input looks like, the pre-trained model the rest.
    assert (converted.config.image_mean, converted.config.dropout) == (0.4, 0.2)


def test_a_connectionist_model_and_a_bare_state_dict(tmp_path):
    state = tiny_state()
    ctc = {key.replace("encoder.w2v", "w2v_encoder.w2v"): value for key, value in fine_tuned(state).items()}
    encoder = read_encoder(ctc, SETTINGS, "ctc.pt")
    assert all(torch.equal(value, state[key]) for key, value in encoder.state.items())
    bare = {key: value for key, value in state.items() if "final_proj" not in key}
    with pytest.raises(MomeError, match="0 do not fit width 16"):  # heads are neither told nor 64 wide
        convert(save(bare, tmp_path / "bare.pt"), tmp_path / "out")


def test_half_precision_is_kept_in_the_file_and_loads_as_float32(checkpoint, tmp_path):
    state = tiny_state(dtype=torch.float16)
    account = convert(checkpoint(state), tmp_path / "out")
    assert account.dtypes == ["float16"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for key, value in stored.items() if "tracked" not in key} == {torch.float16}
    assert all(torch.equal(value, state[key]) for key, value in stored.items())
    model = AVHubertModel.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    check_same(model, original({key: value.float() for key, value in state.items()}))
    assert AVHubertModel.from_pretrained(tmp_path / "out", dtype=torch.float16).dtype == torch.float16


def test_tensors_that_share_memory_are_stored_apart(checkpoint, tmp_path):
    state = tiny_state()
    base = torch.randn(2, 16)
    state["encoder.layers.0.final_layer_norm.weight"], state["encoder.layers.1.final_layer_norm.weight"] = base
    state["encoder.layers.0.fc2.bias"] = state["encoder.layers.1.fc2.bias"] = base[0]
    state["post_extract_proj.weight"] = state["post_extract_proj.weight"].T.contiguous().T
    convert(checkpoint(state), tmp_path / "out")
    check_same(AVHubertModel.from_pretrained(tmp_path / "out"), original(state))


def test_settings_are_found_wherever_files_keep_them(tmp_path):
    def settings(content: dict) -> dict:
        return encoder_settings(read_checkpoint(save(content, tmp_path / "a.pt")))

    inner = argparse.Namespace(encoder_attention_heads=2, image_std=0.3)
    outer = argparse.Namespace(arch="av_hubert_seq2seq", normalize=True, image_std=0.2, w2v_args=inner)
    assert settings({"args": inner, "cfg": None}) == {"encoder_attention_heads": 2, "image_std": 0.3}
    assert settings({"args": outer}) == {"encoder_attention_heads": 2, "image_std": 0.2, "normalize": True}
    unresolved = {"model": {"dropout": None, "label_rate": "${task.label_rate}"}, "task": {"image_mean": 0.4}}
    assert settings({"cfg": unresolved}) == {"image_mean": 0.4}
    assert settings({"model": {}}) == settings({"cfg": "text"}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.layers.1.fc2.bias": None}, r"\(1 difference\): encoder.layers.1.fc2.bias is missing"),
        ({"post_extract_proj.weight": None}, r"\(1 difference\): post_extract_proj.weight is missing"),
        ({"encoder.layers.0.fc1.weight": torch.zeros(24)}, r"fc1.weight is \(24,\) instead of \(24, 16\)"),
        ({"layer_norm.weight": torch.zeros(16)}, r"layer_norm.weight is \(16,\) instead of \(32,\)"),
        ({"feature_extractor_audio.encoder.layers.0.fc1.weight": torch.zeros(2)}, "fc1.weight is unknown"),
        ({"layer_norm.bias": "text"}, "layer_norm.bias is not an ordinary tensor"),
        ({"layer_norm.bias": torch.zeros(32, dtype=torch.int64)}, "layer_norm.bias is of type int64"),
        ({"layer_norm.bias": torch.zeros(32).to_sparse()}, "layer_norm.bias is not an ordinary tensor"),
        ({"layer_norm.bias": torch.zeros(32, device="meta")}, "layer_norm.bias is not an ordinary tensor"),
        ({"encoder.pos_conv.0.weight_v": torch.zeros(16, 0, 8)}, "weight_v is .16, 0, 8."),
        ({"encoder.layers.0.self_attn.lora_down_Q.weight": torch.zeros(2)}, "LoRA"),
        (
            {"feature_extractor_video.proj.weight": None},
            r"\(1 difference\): feature_extractor_video.proj.weight is miss",
        ),
        ({"x.w2v_model.feature_extractor_video.proj.weight": torch.zeros(2)}, "holds 2 encoders"),
    ],
)
def test_weights_that_do_not_fit_are_listed_and_nothing_is_written(checkpoint, tmp_path, change, message):
    state = {key: value for key, value in (tiny_state() | change).items() if value is not None}
    with pytest.raises(MomeError, match=message) as caught:
        convert(checkpoint(state), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["large.pt"]


def test_differences_have_the_names_of_the_file(checkpoint, tmp_path):
    state = fine_tuned(tiny_state())
    state["encoder.w2v_model.foo"] = state.pop("encoder.w2v_model.feature_extractor_video.proj.weight")
    state["encoder.w2v_model.encoder.layers.0.fc1.weight"] = torch.zeros(48, 16)
    model = {"w2v_args": {"model": SETTINGS | {"conv_pos": 9}, "task": TASK}}
    with pytest.raises(MomeError) as caught:
        convert(checkpoint(state, model), tmp_path / "out")
    assert str(caught.value).partition("large.pt ")[2] == (
        "does not fit AV-HuBERT (4 differences): "
        "encoder.w2v_model.feature_extractor_video.proj.weight is missing, encoder.w2v_model.foo is unknown, "
        "encoder.w2v_model.encoder.layers.0.fc1.weight is (48, 16) instead of (24, 16), "
        "conv_pos is 9 by its settings and 8 by its weights"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_norm_first": False}, "made with layer_norm_first=False"),
        ({"modality_fuse": "add"}, "only modality_fuse=concat is supported"),
        ({"encoder_layers": 12}, "encoder_layers is 12 by its settings and 2 by its weights"),
        ({"encoder_attention_heads": 3}, "3 do not fit width 16"),
    ],
)
def test_settings_of_another_model_are_refused(checkpoint, tmp_path, settings, message):
    with pytest.raises(MomeError, match=message):
        convert(checkpoint(tiny_state(), SETTINGS | settings), tmp_path / "out")
    with pytest.raises(MomeError, match="made with normalize=False"):
        convert(checkpoint(tiny_state(), SETTINGS, {"normalize": False}), tmp_path / "out")


def test_checkpoints_of_recognisers_are_told_apart(tmp_path):
    state = {f"video_encoder.{key}": value for key, value in tiny_state().items()} | {"llm.x": torch.zeros(1)}
    with pytest.raises(
        MomeError, match=r"\(its encoder is under video_encoder\.\*\): convert it by the command of its system"
    ):
        convert(save(state, tmp_path / "avsr.pth"), tmp_path / "out")


def test_settings_nested_without_end_are_refused(tmp_path):
    cfg: dict = {"model": {}}
    cfg["model"]["w2v_args"] = cfg
    with pytest.raises(MomeError, match="nested without end"):
        convert(save({"cfg": cfg, "model": tiny_state()}, tmp_path / "a.pt"), tmp_path / "out")


def test_a_folder_that_is_taken_is_left_alone(checkpoint, tmp_path):
    path, out = checkpoint(tiny_state()), tmp_path / "out"
    out.mkdir()
    convert(path, out)  # empty, so it may be filled
    before = sorted(one.name for one in out.iterdir())
    assert before == ["NOTICE.md", "README.md", "config.json", "model.safetensors"]
    assert len({one.stat().st_mode for one in out.iterdir()}) == 1
    (tmp_path / "file").touch()
    for taken in (out, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MomeError, match=r"is there already|cannot be written"):
            convert(path, taken)
    assert sorted(one.name for one in out.iterdir()) == before


def test_a_failed_write_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    path = checkpoint(tiny_state())
    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(MomeError, match="out cannot be written: No space left on device"):
        convert(path, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["large.pt"]


def test_the_card_tells_licence_and_source(checkpoint, tmp_path):
    path = checkpoint(tiny_state())
    convert(path, tmp_path / "new" / "out")
    card = (tmp_path / "new" / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: av-hubert-license\n")
    for needed in (
        "non-commercial research",
        "Copyright (c) Meta Platforms, Inc.",
        "large.pt",
        "SHA-256",
        "final_proj",
    ):
        assert needed in card
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (tmp_path / "new" / "out" / "config.json").read_text()


def test_tensors_stay_in_the_file_until_they_are_used(tmp_path):
    path = save({"model": {"w": torch.arange(4.0)}}, tmp_path / "a.pt")
    weight = read_checkpoint(path)["model"]["w"]
    data = path.read_bytes()
    place = data.index(torch.arange(4.0).numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(place)
        file.write(torch.ones(4).numpy().tobytes())
    assert weight.tolist() == [1.0] * 4
