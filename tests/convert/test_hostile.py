"""Files that are made to break a reader are refused with one line, or read without harm."""

from __future__ import annotations

import argparse
import collections
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mome.cli import app
from mome.convert import avhubert
from mome.convert.avsr import Sources, convert
from mome.convert.unpickle import read_checkpoint
from mome.encoders.avhubert import AVHubertConfig
from mome.errors import MomeError
from tests.convert.fairseq import SETTINGS, save, tiny_state

SHADOWED = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsX\x01\x00\x00\x00asb."
"""An ordered dictionary whose ``items`` is a text."""


def zipped(pickled: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data.pkl", pickled)
    return path


@pytest.mark.parametrize("kind", ["llama-avsr", "av-hubert"])
def test_a_dictionary_whose_method_is_a_text(tmp_path, kind):
    path = zipped(SHADOWED, tmp_path / "a.pth")
    options = ["--language-model=x/y"] if kind != "av-hubert" else []
    done = CliRunner().invoke(app, ["convert", kind, str(path), str(tmp_path / "out"), *options])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"mome: {path} is no")
    assert done.stderr.count("\n") == 1


def test_nothing_of_the_file_is_in_the_place_of_a_method(tmp_path):
    parameter, counter = torch.nn.Parameter(torch.ones(2)), collections.Counter("aab")
    parameter.detach = counter.get = "no method"  # type: ignore[method-assign, assignment]
    inside = argparse.Namespace(found=[{"w": parameter}, counter])
    found = read_checkpoint(save({"deep": inside}, tmp_path / "a.pt"))["deep"].found
    assert found[0]["w"].detach().sum() == 2
    assert found[1].get("a") == 2


def test_a_dictionary_inside_itself_is_read(tmp_path):
    state: dict[str, Any] = {"w": torch.zeros(1)}
    state["again"] = state
    with pytest.raises(MomeError, match="again are not named tensors"):
        convert("llama-avsr", save(state, tmp_path / "a.pt"), tmp_path / "out", Sources("x/y"))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_one_shape_is_refused(tmp_path):
    nested = torch.nested.as_nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(MomeError, match="damaged or not a PyTorch checkpoint"):
        read_checkpoint(save({"w": nested}, tmp_path / "a.pt"))


@pytest.mark.parametrize("settings", [torch.zeros(2), {"model": {"encoder_attention_heads": [2]}, "task": 3}])
def test_without_usable_settings_the_heads_are_unknown(tmp_path, settings):
    path = save({"cfg": settings, "args": None, "model": tiny_state()}, tmp_path / "a.pt")
    with pytest.raises(MomeError, match="does not show its number of attention heads"):
        avhubert.convert(path, tmp_path / "out")


@pytest.mark.parametrize("value", [torch.ones(2), 10**400, float("nan")])
@pytest.mark.parametrize("key", ["layer_norm_first", "encoder_layers", "image_mean"])
def test_a_setting_that_is_no_value_is_unknown(tmp_path, key, value):
    path = save({"cfg": {"model": SETTINGS | {key: value}}, "model": tiny_state()}, tmp_path / "a.pt")
    account = avhubert.convert(path, tmp_path / "out")
    assert (account.notes != ()) == (key == "layer_norm_first")
    assert AVHubertConfig.from_pretrained(tmp_path / "out").image_mean == AVHubertConfig().image_mean


@pytest.mark.parametrize("key", ["encoder.layer_norm.weight", "encoder.layers.0.fc1.weight"])
@pytest.mark.parametrize("shape", [5, ("a",), ("a", "b")])
def test_what_has_a_shape_and_is_no_tensor_is_named(tmp_path, key, shape):
    state: dict[str, Any] = tiny_state()
    state[key] = argparse.Namespace(shape=shape)
    path = save({"args": argparse.Namespace(**SETTINGS), "model": state}, tmp_path / "a.pt")
    with pytest.raises(MomeError, match=f"{key} is not an ordinary tensor"):
        avhubert.convert(path, tmp_path / "out")
