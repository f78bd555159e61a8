"""Names of models: local folders and hub ids."""

from __future__ import annotations

import pytest

from mome.checkpoints.bundled import bundled_folder
from mome.checkpoints.folder import model_folder
from mome.checkpoints.source import Source, is_hub_id, local_folder
from mome.config.fields import BACKBONES
from mome.errors import MomeError


def test_the_bundled_model_and_its_parts_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder() == model_folder("mome-tiny") == local_folder("mome-tiny") == bundled_folder()
    for kind in BACKBONES:
        assert local_folder(f"mome-tiny/{kind}") == bundled_folder() / kind
    assert local_folder("mome-tiny/..") is None
    assert local_folder("mome-tiny/../mome-tiny") is None


def test_folders_come_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("owner/name")
    assert local_folder("owner/name") is None
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_id("owner/name")
    source = Source("owner/name", "the model")
    assert source.folder == source.settings() == source.weights(source.settings()) == local_folder("owner/name")


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "./name", "~/name", "/name", "a b/c", "a//b", "a/..", "a\0/b"])
def test_names_that_no_model_on_the_hub_can_have(name):
    assert not is_hub_id(name)


def test_files_of_one_kind_are_enough(hub):
    hub.add("them/model", {"config.json": b"{}", "vocab.txt": b"x", "README.md": b"x"})
    source = Source("them/model", "the tokenizer")
    assert sorted(path.name for path in source.preprocessing(("vocab.txt", "merges.txt")).iterdir()) == [
        "config.json",
        "vocab.txt",
    ]
    with pytest.raises(MomeError, match=r"^the tokenizer is not in its repository$"):
        source.preprocessing(("merges.txt",))
