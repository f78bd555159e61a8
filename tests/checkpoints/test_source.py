"""Names of models: local folders and hub ids."""

from __future__ import annotations

import pytest

from mome.checkpoints.bundled import bundled_folder
from mome.checkpoints.folder import model_folder
from mome.checkpoints.source import Source, is_hub_id, local_folder, offline_folder
from mome.config.fields import BACKBONES
from mome.errors import MomeError
from tests.checkpoints.fake_hub import use


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


def test_a_folder_with_files_of_no_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    source = Source(str(tmp_path), "the tokenizer")
    with pytest.raises(MomeError, match=f"^the tokenizer is not in {tmp_path}: copy or download it again$"):
        source.preprocessing(("vocab.txt", "merges.txt"))
    (tmp_path / "vocab.txt").touch()
    assert source.preprocessing(("vocab.txt", "merges.txt")) == tmp_path


def test_a_hub_id_is_looked_for_in_the_chosen_folder_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept, other = tmp_path / "kept" / "owner" / "name", tmp_path / "elsewhere"
    kept.mkdir(parents=True)
    other.mkdir()
    (kept.parent / "map").symlink_to(other)
    monkeypatch.setenv("MOME_BACKBONES", str(tmp_path / "kept"))
    assert offline_folder("owner/name") == local_folder("owner/name") == kept
    source = Source("owner/name", "the model", "v1")
    assert source.settings() == source.weights(source.settings()) == source.complete(kept, ["*"]) == kept
    assert local_folder("owner/map").resolve() == other
    assert hub.asked == []
    assert is_hub_id("owner/name")  # so that a checkpoint with it may be uploaded
    for name in ("owner/other", "owner/..", "../elsewhere", "name", str(other / "a")):
        assert local_folder(name) is None
    hub.add("owner/other", {"config.json": b"{}"})
    assert (Source("owner/other", "the model").settings() / "config.json").read_bytes() == b"{}"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert Source("owner/name", "the model").folder.resolve() == tmp_path / "owner" / "name"
    monkeypatch.setenv("MOME_BACKBONES", "")
    assert local_folder("owner/map") is None


def test_a_chosen_folder_that_is_not_there_is_named_where_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "gone", tmp_path / "file"):
        monkeypatch.setenv("MOME_BACKBONES", str(wrong))
        with pytest.raises(MomeError, match=f"^MOME_BACKBONES names {wrong}, which is not a folder: correct or unset"):
            Source("owner/name", "the model").settings()
        assert local_folder("mome-tiny") == bundled_folder()
        assert local_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("chosen", [False, True])
def test_what_neither_hub_nor_chosen_folder_has(hub, tmp_path, monkeypatch, chosen):
    use(monkeypatch, "http://127.0.0.1:9")
    if chosen:
        monkeypatch.setenv("MOME_BACKBONES", str(tmp_path))
    with pytest.raises(MomeError) as caught:
        Source("owner/name", "the audio encoder owner/name").settings()
    places = f"here or in {tmp_path}" if chosen else "here"
    assert str(caught.value) == (
        f"the audio encoder owner/name is neither a folder {places} nor complete in the hub's cache, and the hub "
        "cannot be reached: check the network, give a folder, or set MOME_BACKBONES to a folder that has it "
        "('make backbones' fills one)"
    )
