"""Backbones whose own weights are finer than the checkpoint's: referred to, and rounded when they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mome
from mome.checkpoints import checkpoint
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.convert.avsr import convert
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from tests.convert.published import backbones, published, random_case
from tests.model.build import make_model


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The same checkpoint in bfloat16, once referring to its float32 backbones and once holding them."""
    case = random_case("llama-avsr")
    half = {key: value.bfloat16() for key, value in case.state.items() if value.is_floating_point()}
    path, sources = published(case, tmp_path, half), backbones(case, tmp_path)
    account = convert("llama-avsr", path, tmp_path / "referred", sources)
    assert any(note.endswith("whose weights it rounds to bfloat16, as the file has them") for note in account.notes)
    assert not [one for one in (tmp_path / "referred").iterdir() if one.is_dir()]
    convert("llama-avsr", path, tmp_path / "stored", backbones(case, tmp_path / "bare", weights=False))
    return tmp_path / "referred", tmp_path / "stored"


def weights(folder: Path, **options: Any) -> dict[str, Tensor]:
    """What takes part in inference."""
    state = mome.load(folder, **options).model.state_dict()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def check_equal(one: Path, other: Path, **options: Any) -> None:
    ours, theirs = weights(one, **options), weights(other, **options)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        assert torch.equal(value, theirs[key]), key


def roundings(folder: Path) -> list[str | None]:
    config = MomeConfig.from_pretrained(folder)
    return [getattr(config, f"{kind}_rounding") for kind in BACKBONES]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_the_weights_are_those_that_would_have_been_stored(folders, dtype):
    assert [roundings(folder) for folder in folders] == [["bfloat16"] * 3, [None] * 3]
    check_equal(*folders, dtype=dtype)


def test_saving_keeps_the_rounding_and_copying_applies_it(folders, tmp_path):
    referred, stored = folders
    model = mome.load(referred).model
    model.save_pretrained(tmp_path / "again")
    mome.load(referred).processor.save_pretrained(tmp_path / "again")
    assert roundings(tmp_path / "again") == ["bfloat16"] * 3
    check_equal(tmp_path / "again", stored)
    model.save_pretrained(tmp_path / "whole", self_contained=True)
    mome.load(referred).processor.save_pretrained(tmp_path / "whole")
    assert roundings(tmp_path / "whole") == [None] * 3
    assert roundings(referred) == ["bfloat16"] * 3
    check_equal(tmp_path / "whole", stored)


def test_what_no_file_holds_is_not_rounded(tmp_path):
    make_model("gemma3").save_pretrained(tmp_path / "fine")
    file = tmp_path / "fine" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "language_model_rounding": "bfloat16"}))
    rounded = MomeForSpeechRecognition.from_pretrained(tmp_path / "fine")
    width = rounded.get_input_embeddings().embedding_dim
    assert float(rounded.get_input_embeddings().embed_scale) == pytest.approx(width**0.5, rel=1e-6)
    rounded.save_pretrained(tmp_path / "copy", self_contained=True)
    copy = MomeForSpeechRecognition.from_pretrained(tmp_path / "copy")
    buffers = dict(copy.named_buffers())
    for name, value in rounded.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_what_is_trained_on_is_not_rounded(folders, tmp_path):
    model = mome.load(folders[0]).model
    trained = dict(model.named_parameters())["connector.audio.0.0.bias"]
    with torch.no_grad():
        trained += 1e-6
    model.save_pretrained(tmp_path / "on")
    mome.load(folders[0]).processor.save_pretrained(tmp_path / "on")
    assert torch.equal(weights(tmp_path / "on")["connector.audio.0.0.bias"], trained)
    assert roundings(tmp_path / "on") == ["bfloat16"] * 3


def test_a_language_model_is_quantised_as_rounded(folders, monkeypatch):
    asked, load = {}, checkpoint.load_backbone

    def note(kind, where, revision, dtype, options, **hub):
        asked[kind] = (dtype, dict(options))
        options.pop("quantization_config", None)  # what does it is not installed here
        return load(kind, where, revision, dtype, options, **hub)

    monkeypatch.setattr(checkpoint, "load_backbone", note)
    mome.load(folders[0], quantization_config="four bits")
    assert asked["language_model"] == (torch.bfloat16, {"quantization_config": "four bits"})


def test_equal_backbones_are_not_rounded(tmp_path):
    case = random_case("llama-avsr")
    for key, value in case.state.items():
        if key.startswith(("llm.", "audio_encoder.")):
            case.state[key] = value.bfloat16().float()  # so that rounding changes nothing
    half = {key: value.bfloat16() for key, value in case.state.items() if value.is_floating_point()}
    account = convert("llama-avsr", published(case, tmp_path, half), tmp_path / "out", backbones(case, tmp_path))
    assert roundings(tmp_path / "out") == [None, "bfloat16", None]
    assert sum("it rounds to" in note for note in account.notes) == 1


def test_a_backbone_of_several_precisions_is_stored(tmp_path):
    case = random_case("llama-avsr")
    half = {key: value.bfloat16() for key, value in case.state.items() if value.is_floating_point()}
    half["audio_encoder.layer_norm.weight"] = case.state["audio_encoder.layer_norm.weight"] + 1 / 3
    sources = backbones(case, tmp_path)
    convert("llama-avsr", published(case, tmp_path, half), tmp_path / "out", sources)
    assert [one.name for one in (tmp_path / "out").iterdir() if one.is_dir()] == ["audio_encoder"]
    assert torch.equal(
        weights(tmp_path / "out")["audio_encoder.encoder.layer_norm.weight"], half["audio_encoder.layer_norm.weight"]
    )


def test_a_rounding_that_is_none_is_refused(folders):
    file = folders[0] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"audio_encoder_rounding": "int3"}))
    with pytest.raises(MomeError, match="audio_encoder_rounding=int3 is unknown: choose bfloat16 or float16"):
        mome.load(folders[0])
