from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mome
from mome.convert.avsr import convert
from mome.errors import MomeError
from mome.media import Clip
from tests.conftest import Golden
from tests.convert.published import ADDED, ROWS, backbones, published, random_case

EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
SYSTEMS = ("llama-avsr", "llama-mtsk", "omni-avsr", "llama-smop")


def converted(system: str, case: Golden, folder: Path, weights: bool = True, **sources: object):
    """The loaded folder, and the account."""
    found = replace(backbones(case, folder, weights), **sources)
    account = convert(system, published(case, folder), folder / "out", found)
    assert account.tensors == len(case.state)
    return mome.load(folder / "out").model, account


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("weights", [True, False])
def test_every_system(tmp_path, system, weights):
    case = random_case(system, norm=system == "llama-smop")
    model, account = converted(system, case, tmp_path, weights)
    state, own = model.state_dict(), case.state
    assert torch.equal(state["language_model.model.embed_tokens.weight"], own[EMBEDDING])
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    name = "feature_extractor_video.resnet.trunk.layer1.0.bn1.running_mean"
    assert torch.equal(state[f"video_encoder.{name}"], own[f"video_encoder.{name}"])
    for layer in (0, 1):
        for side in "qv":
            for direction in ("down", "up"):
                ours = f"language_model.model.layers.{layer}.self_attn.{side}_proj.lora.{direction}.weight"
                theirs = f"llm.model.layers.{layer}.self_attn.lora_{direction}_{side.upper()}.weight"
                assert torch.equal(state[ours], own[theirs])
    config = model.config
    assert (config.adapter["bottleneck"], config.adapter["scale"]) == (2, 1 / 8)
    assert config.prompt_ids == {"avsr": [0, 1, 3, 2, 4, 5, 6], "asr": [0, 1, 4, 5, 6], "vsr": [0, 2, 4, 5, 6]}
    assert (config.start_ids, config.audio_markers, config.video_markers) == ([22], [25, 26], [27, 28])
    assert (config.added_tokens, config.text_config.vocab_size) == (ADDED, ROWS)
    assert config.projector_norm == (system == "llama-smop")
    assert (config.tasks == ["avsr"]) == (system != "omni-avsr")
    stored = sum("is stored" in note for note in account.notes)
    assert stored == (0 if weights else 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == (
        [] if weights else ["audio_encoder", "language_model", "video_encoder"]
    )


@pytest.mark.parametrize("rates", ["4,2", "16,-", "-,5"])
def test_a_converted_folder_transcribes(tmp_path, rates):
    converted("omni-avsr", random_case("omni-avsr"), tmp_path)
    sound = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    clip = Clip(sound, np.full((25, 96, 96), 99, np.uint8), 1.0)
    out = mome.load(tmp_path / "out").transcribe(clip, rates, max_new_tokens=2, num_beams=1)
    prompt, start = 7 if rates == "4,2" else 5, 1
    made = {"4,2": 12 + 12 + 4, "16,-": 3 + 2, "-,5": 5 + 2}[rates]
    assert out.tokens.total == start + made + prompt


def test_the_published_tokens_get_the_published_ids(tmp_path):
    converted("llama-avsr", random_case("llama-avsr"), tmp_path)
    tokenizer = mome.load(tmp_path / "out").processor.tokenizer
    names = ["<pad>", "<audio>", "</audio>", "<video>", "</video>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(ROWS, ROWS + ADDED))
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.decode([0, 24, 5, 26], skip_special_tokens=True) == "Transcribe text"


def test_a_language_model_with_padding_of_its_own_gets_the_markers_alone(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    name = tmp_path / "language_model" / "tokenizer_config.json"
    settings = json.loads(name.read_text())
    del settings["bos_token"]
    name.write_text(json.dumps(settings | {"pad_token": "</s>"}))
    change = {key: case.state[key][:-1].clone() for key in (EMBEDDING, HEAD)}
    convert("llama-avsr", published(case, tmp_path, change), tmp_path / "out", sources)
    model = mome.load(tmp_path / "out").model
    assert (model.config.start_ids, model.config.audio_markers) == ([], [ROWS, ROWS + 1])
    assert model.config.added_tokens == 4


def test_a_vocabulary_cut_to_the_tokenizers_length_is_stored(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    name = tmp_path / "language_model" / "config.json"
    name.write_text(json.dumps(json.loads(name.read_text()) | {"vocab_size": ROWS + 40}))
    account = convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert any("the language model is stored: its vocabulary" in note for note in account.notes)
    model = mome.load(tmp_path / "out").model
    assert torch.equal(model.get_input_embeddings().weight, case.state[EMBEDDING])


@pytest.mark.parametrize("shared", [True, False])
def test_updates_of_tasks_are_stacked_in_the_order_of_the_groups(tmp_path, shared):
    case = random_case("omni-avsr", task_specific=True, shared=shared)
    model, _ = converted("omni-avsr", case, tmp_path)
    assert model.config.adapter_groups == ["avsr", "asr", "vsr"]
    lora = model.language_model.model.layers[1].self_attn.v_proj.lora
    for group, modality in enumerate(("audiovisual", "audio", "video")):
        theirs = f"llm.model.layers.1.self_attn.lora_up_V.{modality}.weight"
        assert torch.equal(lora.specific.up[group], case.state[theirs])
    assert (lora.down is not None) == shared


@pytest.mark.parametrize(("side", "task"), [("audio", "asr"), ("video", "vsr")])
@pytest.mark.parametrize("stack", [None, 3])
def test_one_modality(tmp_path, side, task, stack):
    case, unknown = random_case("llama-avsr", side, stack=stack), {"audio_rates": None, "video_rates": None}
    model, account = converted("llama-avsr", case, tmp_path, **unknown)
    assert model.config.tasks == [task]
    assert getattr(model.config, f"{side}_rates") == [stack or {"audio": 32, "video": 5}[side]]
    assert model.config.compression == ("stack" if stack else "average")
    assert (model.audio_encoder is None, model.video_encoder is None) == (side == "video", side == "audio")
    assert f"{task} at {side} rates" in account.model


def test_adapted_lip_reading(tmp_path):
    case = random_case("llama-avsr", "video")
    for side in "QV":
        case.state[f"video_encoder.encoder.layers.0.self_attn.lora_down_{side}.weight"] = torch.randn(1, 16)
        case.state[f"video_encoder.encoder.layers.0.self_attn.lora_up_{side}.weight"] = torch.randn(16, 1)
    model, _ = converted("llama-avsr", case, tmp_path)
    lora = model.video_encoder.encoder.layers[0].self_attn.v_proj.lora
    assert (model.config.video_adapter["bottleneck"], lora.scale) == (1, 2)
    assert torch.equal(lora.up.weight, case.state["video_encoder.encoder.layers.0.self_attn.lora_up_V.weight"])


def test_one_projector_for_all_rates_is_there_for_each(tmp_path):
    case = random_case("llama-mtsk", single=True)
    model, _ = converted("llama-mtsk", case, tmp_path)
    for i in (0, 1):
        assert torch.equal(model.state_dict()[f"connector.video.{i}.2.bias"], case.state["video_proj.2.bias"])


def test_an_untied_head_is_kept_with_its_added_rows(tmp_path):
    case = random_case("llama-avsr", tie=False)
    model, _ = converted("llama-avsr", case, tmp_path)
    assert torch.equal(model.language_model.lm_head.weight, case.state[HEAD])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["added_head"], case.state[HEAD][-ADDED:])


def test_a_tied_head_may_be_missing_but_not_differ(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    with pytest.raises(MomeError, match="a head of its own"):
        convert("llama-avsr", published(case, tmp_path, {HEAD: case.state[HEAD] + 1}), tmp_path / "out", sources)
    convert("llama-avsr", published(case, tmp_path, {HEAD: None}), tmp_path / "out", sources)
    assert mome.load(tmp_path / "out").model.language_model.lm_head.weight.shape == (ROWS + ADDED, 16)


def test_a_backbone_that_was_changed_is_stored_and_the_others_are_not(tmp_path):
    case = random_case("llama-avsr")
    key = "audio_encoder.layers.0.fc1.bias"
    sources = backbones(case, tmp_path)
    path = published(case, tmp_path, {key: case.state[key] + 1e-3})
    account = convert("llama-avsr", path, tmp_path / "out", sources)
    assert any("the audio encoder is stored: layers.0.fc1.bias is not that of" in note for note in account.notes)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["audio_encoder"]
    assert torch.equal(
        mome.load(tmp_path / "out").model.audio_encoder.encoder.layers[0].fc1.bias, case.state[key] + 1e-3
    )


def test_half_precision_is_compared_after_rounding_and_stored_as_it_is(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    half = {key: value.bfloat16() for key, value in case.state.items() if value.is_floating_point()}
    path = published(case, tmp_path, half)
    account = convert("llama-avsr", path, tmp_path / "out", sources)
    assert account.dtypes == ["bfloat16"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
    assert load_file(tmp_path / "out" / "model.safetensors")["added_embeddings"].dtype == torch.bfloat16
    bare = backbones(case, tmp_path / "bare", weights=False)
    convert("llama-avsr", path, tmp_path / "stored", bare)
    assert mome.load(tmp_path / "stored", dtype="auto").model.dtype == torch.bfloat16


@pytest.mark.parametrize("side", ["audio", "video"])
def test_heads_of_an_encoder_of_its_own_size_are_not_guessed(tmp_path, side):
    case = random_case("llama-avsr")
    sources = replace(backbones(case, tmp_path), **{f"{side}_encoder": None})
    with pytest.raises(MomeError, match="heads"):
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)


def test_assumed_rates_are_named(tmp_path):
    _, account = converted("llama-avsr", random_case("llama-avsr"), tmp_path, audio_rates=None)
    assert account.notes[0] == "the file does not show its rates, so assumed: audio 4"


def test_an_assumed_factor_and_number_of_experts_are_named(tmp_path):
    case = random_case("llama-smop")
    model, account = converted("llama-smop", case, tmp_path / "assumed", lora_scale=None)
    assert "the file does not show the factor of its LoRA, so assumed: 0.125 (--lora-scale)" in account.notes
    assert "the file does not show how many experts a token has, so assumed: 2 (--top-k)" in account.notes
    assert (model.config.adapter["scale"], model.connector.top_k) == (0.125, 2)
    model, account = converted("llama-smop", case, tmp_path / "told", top_k=1)
    assert [note for note in account.notes if "so assumed" in note] == []
    assert model.connector.top_k == 1


def test_a_file_that_may_be_of_two_systems_is_converted_and_noted(tmp_path):
    _, account = converted("llama-mtsk", random_case("llama-mtsk", single=True), tmp_path)
    assert account.notes[0] == ("its projectors are not numbered: if it is of Llama-AVSR, convert it as llama-avsr")


def test_lightnings_checkpoint_is_the_same_model(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    inside = {f"model.{key}": value for key, value in case.state.items()}
    whole = {"epoch": 3, "state_dict": inside, "hyper_parameters": {"args": argparse.Namespace(lr=1)}}
    torch.save(whole | {"optimizer_states": [{"state": {0: torch.zeros(9)}}]}, tmp_path / "last.ckpt")
    account = convert("llama-avsr", tmp_path / "last.ckpt", tmp_path / "out", sources)
    assert account.tensors == len(case.state)
    assert "what it holds beside the weights was left out" in account.notes[0]
    convert("llama-avsr", published(case, tmp_path), tmp_path / "flat", sources)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "flat"))
    assert one == other


def shards_without_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"conv1.weight": "model-1-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "the folder {} has no model.safetensors to compare with",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "{} has its weights in pytorch_model.bin, and only those in model.safetensors are compared",
        ),
        (
            shards_without_files,
            "of the weights of {}, model-1-of-2.safetensors are not on this machine to compare with",
        ),
    ],
)
def test_why_a_backbone_is_stored_is_said_as_it_is(tmp_path, change, reason):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    change(tmp_path / "audio_encoder")
    account = convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert f"the audio encoder is stored: {reason.format(sources.audio_encoder)}" in account.notes
