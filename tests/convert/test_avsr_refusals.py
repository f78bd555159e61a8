"""Files and options that do not fit are refused by name, and nothing is written."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mome.convert.avsr import Sources, convert
from mome.errors import MomeError
from tests.convert.published import ADDED, ROWS, backbones, published, random_case

EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm.model.norm.weight": None}, r"\(1 difference\): llm.model.norm.weight is missing"),
        ({"stray.weight": torch.zeros(2)}, "stray.weight is unknown"),
        ({"llm.model.norm.weight": torch.zeros(3)}, r"norm.weight is \(3,\) instead of \(16,\)"),
        ({"llm.model.norm.weight": torch.zeros(16, dtype=torch.int64)}, "norm.weight is of type int64"),
        ({"audio_proj.2.bias": None}, ": audio_proj.2.bias is missing"),
        ({"audio_proj.0.weight": None}, r"\(1 difference\): audio_proj.0.weight is missing"),
        ({"audio_proj.0.weight": torch.zeros(2, 24)}, r"audio_proj.0.weight is \(2, 24\) instead of \(12, 16\)"),
        ({"audio_proj.0.weight": torch.zeros(2)}, r"audio_proj.0.weight is \(2,\) instead of \(12, 16\)"),
        ({EMBEDDING: None}, rf"\(1 difference\): {EMBEDDING} is missing"),
        ({EMBEDDING: None, HEAD: None}, f"does not show its vocabulary: {EMBEDDING} is missing"),
        ({EMBEDDING: torch.zeros(ROWS + ADDED, 32)}, rf"{EMBEDDING} is \(29, 32\) instead of \(29, 16\)"),
        ({EMBEDDING: torch.zeros(ROWS + ADDED, 16).to_sparse()}, rf"{EMBEDDING} is not an ordinary tensor"),
        ({EMBEDDING: torch.zeros(ROWS, 16)}, "vocabulary of .* has 24 rows"),
        (
            {"audiovisual_proj.gate.weight": torch.zeros(2, 16)},
            r"but of Llama-SMoP .it has audiovisual_proj.gate.weight.: convert it as llama-smop",
        ),
        ({"prompt_audio": torch.zeros(1, 5, 16)}, "but of Omni-AVSR .it has prompt_audio.: convert it as omni-avsr"),
        ({"audiovisual_encoder.layer_norm.weight": torch.zeros(2)}, "one AV-HuBERT, --video-encoder: leave it out"),
        ({"audio_proj.7.0.weight": torch.zeros(2)}, "audio_proj.7.0.weight is unknown"),
        ({"audio_encoder.conv1.weight": torch.zeros(2, 2, 2)}, r"conv1.weight is \(2, 2, 2\)"),
        (
            {"video_encoder.encoder.layers.0.self_attn.lora_up_Q.weight": torch.zeros(2, 2)},
            "lora_down_Q.weight is missing",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, change, message):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    path = published(case, tmp_path, change)
    with pytest.raises(MomeError, match=message) as caught:
        convert("llama-avsr", path, tmp_path / "out", sources)
    assert "\n" not in str(caught.value)
    assert not [one for one in tmp_path.iterdir() if "out" in one.name]


def test_differences_are_counted_and_listed_by_the_files_names(tmp_path):
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path)
    missing = [key for key in case.state if ".layers.1." in key]
    strays = [f"stray.{i}" for i in range(60)]
    path = published(case, tmp_path, dict.fromkeys(missing) | dict.fromkeys(strays, torch.zeros(1)))
    with pytest.raises(MomeError, match=r"\(73 differences\): ") as caught:
        convert("llama-avsr", path, tmp_path / "out", sources)
    found = str(caught.value).partition("differences): ")[2].removesuffix(" and 23 more").split(", ")
    assert set(found[:13]) == {f"{key} is missing" for key in missing}
    assert found[13:] == [f"{key} is unknown" for key in strays[:37]]


def test_a_tensor_that_serves_several_rates_is_listed_once(tmp_path):
    case = random_case("llama-mtsk", single=True)
    path = published(case, tmp_path, {"audio_proj.2.bias": torch.zeros(3), "video_proj.2.bias": None})
    message = r"\(2 differences\): video_proj.2.bias is missing, audio_proj.2.bias is \(3,\) instead of \(16,\)$"
    with pytest.raises(MomeError, match=message):
        convert("llama-mtsk", path, tmp_path / "out", backbones(case, tmp_path))


@pytest.mark.parametrize(
    ("system", "options", "message"),
    [
        ("llama-avsr", {"audio_rates": [4, 16]}, "1 audio projectors, and --audio-rates are 2"),
        ("llama-mtsk", {"video_rates": [2]}, "2 video projectors, and --video-rates are 1"),
        ("llama-mtsk", {"video_rates": [2, 2]}, "twice"),
        ("llama-avsr", {"audio_encoder": "video_encoder"}, "of type avhubert, where the checkpoint needs whisper"),
        ("llama-avsr", {"top_k": 2}, "--top-k is for llama-smop, not for llama-avsr: leave it out"),
        ("llama-smop", {"top_k": 3}, "--top-k 3 is not possible: the checkpoint has 2 experts"),
        ("llama-avsr", {"language_model": "missing"}, "neither a folder here nor a hub id such as owner/name"),
        ("llama-avsr", {"video_encoder": "missing"}, "make it with 'mome convert av-hubert CKPT "),
        ("llama-avsr", {"language_model": "audio_encoder"}, "tokenizer|language model"),
    ],
)
def test_options_that_do_not_fit(tmp_path, system, options, message):
    case = random_case(system)
    named = ("audio_encoder", "video_encoder", "language_model")
    options = {key: str(tmp_path / value) if key in named else value for key, value in options.items()}
    sources = replace(backbones(case, tmp_path), **options)
    with pytest.raises(MomeError, match=message):
        convert(system, published(case, tmp_path), tmp_path / "out", sources)
    assert not (tmp_path / "out").exists()


def test_stacked_rates_are_told_by_the_weights(tmp_path):
    case = random_case("llama-avsr", stack=3)
    sources = replace(backbones(case, tmp_path), audio_rates=[4])
    with pytest.raises(MomeError, match=r"--audio-rates 4 does not fit .*published\.pth, which stacks 3"):
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)


def test_an_encoder_that_the_checkpoint_has_not_is_refused(tmp_path):
    case = random_case("llama-avsr", "video")
    sources = replace(backbones(case, tmp_path), audio_encoder="openai/whisper-small")
    with pytest.raises(MomeError, match="--audio-encoder is given, but"):
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)


@pytest.mark.parametrize("shape", [(), (16,), (5, 16), (5, 1, 16), (1, 5, 8), (1, 5, 16, 1), "sparse"])
def test_prompts_of_another_shape_are_refused(tmp_path, shape):
    case = random_case("omni-avsr")
    prompt = case.state["prompt_audio"].to_sparse() if shape == "sparse" else torch.zeros(shape)
    path, sources = published(case, tmp_path, {"prompt_audio": prompt}), backbones(case, tmp_path)
    why = "not an ordinary tensor" if shape == "sparse" else re.escape(f"{shape} instead of (1, ")
    with pytest.raises(MomeError, match=rf"\(1 difference\): prompt_audio is {why}"):
        convert("omni-avsr", path, tmp_path / "out", sources)
    assert not (tmp_path / "out").exists()


def test_a_projector_beside_no_encoder_is_not_dropped(tmp_path):
    case = random_case("llama-avsr", "video")
    path = published(case, tmp_path, {"audio_proj.0.weight": torch.zeros(12, 16)})
    with pytest.raises(MomeError, match=r"\(1 difference\): audio_proj.0.weight is unknown"):
        convert("llama-avsr", path, tmp_path / "out", backbones(case, tmp_path))


def test_other_prompts_than_the_tokenizers_are_refused(tmp_path):
    case = random_case("omni-avsr")
    path = published(case, tmp_path, {"prompt_video": case.state["prompt_audio"]})
    with pytest.raises(MomeError, match=r"prompt_video of .*published.pth is not 'Transcribe video to text\.'"):
        convert("omni-avsr", path, tmp_path / "out", backbones(case, tmp_path))


@pytest.mark.parametrize("finer", ["prompts", "weights"])
def test_prompts_of_another_precision_are_compared_after_rounding(tmp_path, finer):
    case = random_case("omni-avsr")
    half = {key: value.bfloat16() for key, value in case.state.items() if value.is_floating_point()}
    half = {key: value for key, value in half.items() if key.startswith("prompt_") != (finer == "prompts")}
    sources = backbones(case, tmp_path)
    convert("omni-avsr", published(case, tmp_path, half), tmp_path / "out", sources)
    other = (half | case.state if finer == "prompts" else case.state | half)["prompt_audio"] * 1.01
    with pytest.raises(MomeError, match="give the language model that it was trained on"):
        convert("omni-avsr", published(case, tmp_path, half | {"prompt_audio": other}), tmp_path / "no", sources)


@pytest.mark.parametrize(
    ("system", "options", "asked", "message"),
    [
        (
            "llama-mtsk",
            {},
            "llama-avsr",
            r"but of Llama-MTSK \(its projectors are numbered\): convert it as llama-mtsk",
        ),
        ("llama-mtsk", {}, "omni-avsr", "convert it as llama-mtsk"),
        ("llama-avsr", {}, "omni-avsr", r"of Llama-AVSR \(its projectors are not numbered\): convert it as llama-avsr"),
        ("llama-smop", {}, "llama-mtsk", "convert it as llama-smop"),
        ("omni-avsr", {}, "llama-mtsk", "convert it as omni-avsr"),
    ],
)
def test_a_file_of_another_system_says_which(tmp_path, system, options, asked, message):
    case = random_case(system, **options)
    with pytest.raises(MomeError, match=message):
        convert(asked, published(case, tmp_path), tmp_path / "out", backbones(case, tmp_path))


def test_an_audio_encoder_of_another_kind_is_refused(tmp_path):
    case = random_case("llama-avsr")
    whisper = dict.fromkeys(key for key in case.state if key.startswith("audio_encoder."))
    path = published(case, tmp_path, whisper | {"audio_encoder.post_extract_proj.weight": torch.zeros(16)})
    with pytest.raises(MomeError, match="an audio encoder that is none of Whisper, WavLM and AV-HuBERT"):
        convert("llama-avsr", path, tmp_path / "out", backbones(case, tmp_path))


def test_a_missing_prompt_is_named(tmp_path):
    case = random_case("omni-avsr")
    path, sources = published(case, tmp_path, {"prompt_video": None}), backbones(case, tmp_path)
    with pytest.raises(MomeError, match=r"\(1 difference\): prompt_video is missing"):
        convert("omni-avsr", path, tmp_path / "out", sources)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "state_dict": {"model.w": torch.zeros(1), "loss.w": torch.zeros(1)}}, "loss.w do not begin with"),
        ({"epoch": 3, "state_dict": {"model.w": 5}}, "w are not named tensors"),
        ({"epoch": 3, "state_dict": {}}, "it has no llm.model.embed_tokens.weight"),
        ({"model": {"w": torch.zeros(1)}, "cfg": None}, "in a dictionary 'model'.*; convert these as av-hubert"),
        ({"epoch": 3, "weights": {}}, "epoch, weights are not named tensors"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(MomeError, match=message):
        convert("llama-mtsk", tmp_path / "a.ckpt", tmp_path / "out", Sources("x/y"))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(MomeError, match=r"--lora-scale .* is not possible: give a number above 0"):
        Sources("x/y", lora_scale=scale)
