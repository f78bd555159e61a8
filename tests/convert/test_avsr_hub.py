"""Backbones of a converted recogniser on the hub: downloads, and messages for refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download, snapshot_download
from typer.testing import CliRunner

import mome
from mome.checkpoints.source import Source
from mome.cli import app
from mome.convert.avsr import Sources, convert
from mome.convert.avsr_backbones import LocalWeights, find_weights
from mome.errors import MomeError
from mome.hub import LOGIN, SITE
from tests.checkpoints.fake_hub import Hub
from tests.convert.published import backbones, published, random_case

NAMES = {"language_model": "them/llama", "audio_encoder": "them/whisper", "video_encoder": "them/av-hubert"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Sources]:
    """A published file, and the folders of its backbones."""
    case = random_case("llama-avsr")
    return published(case, tmp_path), backbones(case, tmp_path)


def on_hub(hub: Hub, sources: Sources, gated: dict[str, int] | None = None) -> Sources:
    """The same backbones by their ids."""
    for kind, name in NAMES.items():
        hub.add(name, Path(getattr(sources, kind)), gated=(gated or {}).get(kind, 0))
    return replace(sources, **NAMES)


def refused(path: Path, sources: Sources) -> str:
    """The one-line message of a refused conversion, which writes nothing."""
    out = path.parent / "out"
    with pytest.raises(MomeError) as caught:
        convert("llama-avsr", path, out, sources)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("there", [False, True])
def test_only_settings_and_the_tokenizer_are_downloaded(hub, checkpoint, there):
    path, folders = checkpoint
    sources, out = on_hub(hub, folders), path.parent / "out"
    if there:
        for name in NAMES.values():
            snapshot_download(name)
    hub.asked = []
    account = convert("llama-avsr", path, out, sources)
    assert not any(name.endswith(".safetensors") for name in hub.downloads())
    config = mome.load(out).model.config
    for kind, name in NAMES.items():
        what = kind.replace("_", " ")
        if there:
            revision = getattr(config, f"{kind}_revision")
            assert (getattr(config, kind), revision) == (name, hub.repos[name].branches["main"])
            assert f"the {what} is that of {name}, to which the folder refers" in account.notes
        else:
            note = f"the {what} is stored: the weights of {name} are not on this machine to compare with"
            assert note in account.notes
    texts = [file.read_text() for file in out.rglob("*") if file.suffix in (".json", ".md")]
    assert not any(str(path.parent) in text for text in texts)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_where_its_licence_is_accepted(hub, checkpoint, kind, status):
    path, folders = checkpoint
    message = refused(path, on_hub(hub, folders, {kind: status}))
    assert message == (
        f"the {kind.replace('_', ' ')} {NAMES[kind]} is gated: accept its licence at {SITE}/{NAMES[kind]}, "
        f"then {LOGIN} of the same account"
    )


def test_without_the_hub_the_line_says_why(hub, checkpoint, monkeypatch):
    path, folders = checkpoint
    sources = on_hub(hub, folders)
    convert("llama-avsr", path, path.parent / "online", sources)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked = []
    convert("llama-avsr", path, path.parent / "offline", sources)
    message = refused(path, replace(sources, language_model="them/other"))
    assert "the language model them/other is neither a folder here nor complete in the hub's cache" in message
    assert "HF_HUB_OFFLINE is set: unset it once" in message
    assert hub.asked == []


def test_a_cache_with_settings_and_no_tokenizer(hub, checkpoint, monkeypatch):
    path, folders = checkpoint
    sources = replace(folders, language_model=on_hub(hub, folders).language_model)
    file_download.hf_hub_download(NAMES["language_model"], "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused(path, sources)
    assert "the tokenizer of them/llama is neither a folder here nor complete in the hub's cache" in message
    assert "HF_HUB_OFFLINE" in message


def test_a_repository_without_what_is_needed(hub, checkpoint):
    path, folders = checkpoint
    config = (Path(folders.language_model) / "config.json").read_bytes()
    hub.add("them/bare", {"config.json": config})
    hub.add("them/empty", {"README.md": b"x"})
    assert refused(path, replace(folders, language_model="them/bare")) == (
        "the tokenizer of them/bare is not in its repository"
    )
    assert "them/empty has no config.json" in refused(path, replace(folders, language_model="them/empty"))
    assert "them/none is neither a folder here nor found on the hub" in refused(
        path, replace(folders, language_model="them/none")
    )
    message = refused(path, replace(folders, video_encoder="models/av-hubert-large"))
    assert message.endswith("make it with 'mome convert av-hubert CKPT models/av-hubert-large'")


@pytest.mark.parametrize("name", ["llama", "a/b/c", "./llama", "/nowhere/llama", "~/llama"])
def test_what_cannot_be_an_id_is_not_asked_for(hub, checkpoint, name):
    path, folders = checkpoint
    for kind, what in (("language_model", "language model"), ("audio_encoder", "audio encoder")):
        message = refused(path, replace(folders, **{kind: name}))
        assert message == f"the {what} {name} is neither a folder here nor a hub id such as owner/name: correct it"
    assert hub.asked == []


@pytest.mark.parametrize("text", ["{", "{}", None])
def test_a_tokenizer_that_is_damaged_or_missing(tmp_path, checkpoint, text):
    path, folders = checkpoint
    folder = shutil.copytree(folders.language_model, tmp_path / "damaged")
    if text is None:
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text(text)
    message = refused(path, replace(folders, language_model=str(folder)))
    assert f"the tokenizer of {folder}" in message
    assert f"its files in {folder} are missing or damaged" in message


def test_a_hub_in_trouble_gives_one_line_and_nothing_of_the_retries(hub, checkpoint, monkeypatch, capfd):
    import huggingface_hub.utils._http as http

    path, folders = checkpoint
    sources = on_hub(hub, folders)
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    hub.down = 503
    options = [f"--{kind.replace('_', '-')}={getattr(sources, kind)}" for kind in NAMES]
    done = CliRunner().invoke(app, ["convert", "llama-avsr", str(path), str(path.parent / "out"), *options])
    assert done.exit_code == 2
    assert done.stderr == (
        "mome: the audio encoder them/whisper cannot be downloaded: the hub is out of order (503): try again later\n"
    )
    assert "".join(capfd.readouterr()) == ""


def test_weights_that_others_are_beside_are_found_in_the_cache(hub, tiny_model):
    """Only what a model needs is downloaded, so a repository is never complete."""
    hub.add("them/model", tiny_model / "language_model")
    commit = hub.add("them/model", {"original/consolidated.00.pth": b"x", "LICENSE": b"x"})
    assert find_weights("them/model") == "the weights of them/model are not on this machine to compare with"
    source = Source("them/model", "the language model")
    folder = source.weights(source.settings())
    hub.asked = []
    found = find_weights("them/model")
    assert isinstance(found, LocalWeights)
    assert (found.reference, found.revision) == ("them/model", commit)
    assert set(found.files.values()) == {folder / "model.safetensors"}
    assert hub.asked == []
