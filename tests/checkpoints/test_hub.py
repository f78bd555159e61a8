"""The hub: downloads, uploads, resumed transfers, and messages for refusals."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import load_file

import mome
from mome import MomeError, MomeForSpeechRecognition, MomeProcessor
from mome.checkpoints.backbones import load_backbone
from mome.checkpoints.folder import model_folder, read_config
from mome.checkpoints.names import TOKENIZER_FILES
from mome.config.fields import BACKBONES
from mome.hub import SITE
from tests.checkpoints.fake_hub import running, use
from tests.model.build import make_model, shared_model

LLAMA, WHISPER = "meta-llama/Llama-3.2-1B", "openai/whisper-small"


def refused(name: str = "me/model", revision: str | None = None, **options) -> str:
    """The one-line message for a refused model."""
    with pytest.raises(MomeError) as caught:
        model_folder(name, revision, **options)
    return one_line(caught)


def backbone_refused(kind: str, reference: str, revision: str | None = None, **options) -> str:
    with pytest.raises(MomeError) as caught:
        load_backbone(kind, reference, revision, torch.float32, {}, **options)
    return one_line(caught)


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert not any(name in message for name in ("Traceback", "Request ID", "local_files_only=False"))
    return message


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the three backbones."""
    folder = tmp_path_factory.mktemp("backbones")
    shared_model().save_pretrained(folder)
    return folder


def referring(folder: Path) -> Path:
    """A checkpoint whose backbones are on the hub."""
    model = make_model()
    for kind in BACKBONES:
        setattr(model.config, kind, f"them/{kind}")
    model.config.language_model_revision = "v1"
    model.save_pretrained(folder)
    return folder


def test_a_model_is_loaded_by_its_id_with_only_the_files_it_needs(hub, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "run")
    for extra in ("training_args.bin", "checkpoint-5/model.safetensors", "checkpoint-5/config.json", "recipe.yaml"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"x")
    hub.add("me/model", folder)
    loaded = mome.load("me/model")
    wanted = {path.relative_to(tiny_model).as_posix() for path in tiny_model.rglob("*") if path.is_file()}
    assert set(hub.downloads()) == wanted
    assert len(hub.downloads()) == len(wanted)
    own = MomeForSpeechRecognition.from_pretrained(tiny_model).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.model.state_dict().items())


def test_a_revision_is_a_branch_or_a_commit(hub, tiny_model):
    old = hub.add("me/model", tiny_model)
    hub.add("me/model", {"README.md": b"new"})
    hub.add("me/model", {"config.json": b"{}"}, branch="other")
    assert not (model_folder("me/model", old) / "README.md").exists()
    assert (model_folder("me/model") / "README.md").read_text() == "new"
    assert "is of type None" in refused(revision="other")


def test_backbones_are_loaded_by_id_and_revision_with_only_their_weights(hub, parts, tmp_path):
    for kind in BACKBONES:
        hub.add(f"them/{kind}", parts / kind, branch="v1" if kind == "language_model" else "main")
        extra = {"original/consolidated.00.pth": b"x", "pytorch_model.bin": b"x", "model.fp32.safetensors": b"x"}
        hub.add(f"them/{kind}", extra, branch="v1" if kind == "language_model" else "main")
    hub.add("me/model", referring(tmp_path / "saved"))
    loaded = MomeForSpeechRecognition.from_pretrained("me/model")
    own = shared_model().state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    assert set(hub.downloads()) == {"config.json", "generation_config.json", "model.safetensors"}
    assert loaded.language_model.name_or_path == "them/language_model"
    loaded.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["language_model"], config["language_model_revision"]) == ("them/language_model", "v1")


def test_weights_in_several_files_or_in_pytorchs_format(hub, tmp_path):
    model = shared_model().language_model
    bare = {name: value for name, value in model.state_dict().items() if ".mome." not in name}
    model.save_pretrained(tmp_path / "shards", state_dict=dict(bare), max_shard_size="20KB")
    hub.add("them/shards", tmp_path / "shards")
    shards = {path.name for path in (tmp_path / "shards").glob("*.safetensors")}
    assert len(shards) > 1
    model.config.save_pretrained(tmp_path / "old")
    torch.save(bare, tmp_path / "old" / "pytorch_model.bin")
    hub.add("them/old", tmp_path / "old")
    for name in ("them/shards", "them/old"):
        state = load_backbone("language_model", name, None, torch.float32, {}).state_dict()
        assert all(torch.equal(value, bare[key]) for key, value in state.items())
    hub.add("them/empty", {"config.json": (tmp_path / "old" / "config.json").read_bytes()})
    assert "has no weights in its repository" in backbone_refused("language_model", "them/empty")


def test_a_backbone_of_the_wrong_kind_is_refused_before_its_weights_are_downloaded(hub, parts):
    hub.add(LLAMA, parts / "language_model")
    message = backbone_refused("audio_encoder", LLAMA)
    assert "is of type llama, not one of avhubert" in message
    assert "type llama, not a speech recogniser" in refused(LLAMA)
    assert "model.safetensors" not in hub.downloads()


def test_a_download_that_breaks_is_taken_up_where_it_broke(hub, tiny_model, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what of a chunk has come is lost
    hub.add("me/model", tiny_model)
    hub.cut = {"model.safetensors", "language_model/model.safetensors"}
    mome.load("me/model")
    ranges = {path.split("/", 5)[5]: header for method, path, header in hub.asked if method == "GET" and header}
    assert set(ranges) == {"model.safetensors", "language_model/model.safetensors"}
    for name, header in ranges.items():
        half = (tiny_model / name).stat().st_size // 2
        assert header == f"bytes={half - half % 1024}-"


def test_a_download_that_failed_is_completed_by_the_next_call(hub, tiny_model):
    hub.add("me/model", tiny_model)
    hub.broken = {"model.safetensors"}
    message = refused()
    assert message.startswith("the download of model me/model broke off (")
    assert message.endswith("): try again, complete files are kept")
    hub.broken, hub.asked = set(), []
    mome.load("me/model")
    assert "model.safetensors" in hub.downloads()
    assert "config.json" not in hub.downloads()


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_where_its_licence_is_accepted(hub, parts, tmp_path, status):
    for kind in BACKBONES:
        hub.add(f"them/{kind}", parts / kind, branch="v1", gated=status if kind == "language_model" else 0)
        hub.add(f"them/{kind}", parts / kind, gated=status if kind == "language_model" else 0)
    hub.add("me/model", referring(tmp_path / "saved"))
    with pytest.raises(MomeError) as caught:
        MomeForSpeechRecognition.from_pretrained("me/model")
    assert one_line(caught) == (
        "the language model them/language_model is gated: accept its licence at "
        f"{SITE}/them/language_model, then log in with 'hf auth login' or set HF_TOKEN of the same account"
    )
    hub.add(LLAMA, parts / "language_model", gated=status)
    assert f"accept its licence at https://huggingface.co/{LLAMA}" in backbone_refused("language_model", LLAMA)


def test_a_model_that_is_not_there(hub, tiny_model):
    assert refused() == (
        "model me/model is neither a folder here nor found on the hub: correct the name or, if it is private, "
        "log in with 'hf auth login' or set HF_TOKEN"
    )
    assert f"the audio encoder {WHISPER} is neither a folder" in backbone_refused("audio_encoder", WHISPER)
    hub.add("me/model", tiny_model)
    assert refused(revision="v3") == f"model me/model has no revision v3: see {SITE}/me/model/commits/main"
    assert "has no revision v3" in backbone_refused("language_model", "me/model", "v3")
    hub.add("me/other", {"README.md": b"x"})
    assert refused("me/other").endswith("is not a speech recogniser of this package: it has no config.json")


@pytest.mark.parametrize("kind", ["video_encoder", "audio_encoder"])
@pytest.mark.parametrize("reference", ["models/av-hubert-large", "/nowhere/av-hubert-large"])
def test_a_missing_av_hubert_says_how_it_is_made(hub, kind, reference, monkeypatch):
    wanted = f"make it with 'mome convert av-hubert CKPT {reference}'"
    assert backbone_refused(kind, reference).endswith(wanted)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert backbone_refused(kind, reference).endswith(wanted)


@pytest.mark.parametrize(
    ("how", "why"), [("offline", "HF_HUB_OFFLINE is set"), ("local", "local_files_only"), ("down", "reached")]
)
def test_without_the_hub_its_cache_serves(hub, tiny_model, parts, tmp_path, monkeypatch, how, why):
    for kind in BACKBONES:
        hub.add(f"them/{kind}", parts / kind, branch="v1" if kind == "language_model" else "main")
    hub.add("me/model", referring(tmp_path / "saved"))
    hub.add("me/whole", tiny_model)
    MomeForSpeechRecognition.from_pretrained("me/model")
    mome.load("me/whole")
    options = {"local_files_only": True} if how == "local" else {}
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        use(monkeypatch, "http://127.0.0.1:9")
    hub.asked = []
    MomeForSpeechRecognition.from_pretrained("me/model", **options)
    mome.load("me/whole", **options)
    assert hub.asked == []
    for message in (refused("me/other", **options), backbone_refused("language_model", LLAMA, **options)):
        assert why in message
        assert "neither a folder here nor complete in the hub's cache" in message


def test_the_tokenizer_of_a_language_model_on_the_hub_is_kept(hub, tiny_model, tmp_path, monkeypatch):
    """For a model whose folder has none."""
    shutil.copytree(tiny_model, tmp_path / "model")
    language_model = tmp_path / "model" / "language_model"
    for name in TOKENIZER_FILES:
        if (tmp_path / "model" / name).exists():
            (tmp_path / "model" / name).rename(language_model / name)
    hub.add("them/llama", language_model)
    shutil.rmtree(language_model)
    config = read_config(tmp_path / "model")
    config.language_model = "them/llama"
    config.save_pretrained(tmp_path / "model")
    hub.add("me/model", tmp_path / "model")
    online = mome.load("me/model").processor
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked = []
    for processor in (online, mome.load("me/model").processor):
        assert processor.labels(["bin blue"]).tolist() == mome.load(tiny_model).processor.labels(["bin blue"]).tolist()
    assert hub.asked == []


def test_a_cache_that_other_programs_filled_in_part(hub, parts, monkeypatch, tmp_path):
    hub.add("them/language_model", parts / "language_model")
    for name in ("config.json", "model.safetensors"):
        file_download.hf_hub_download("them/language_model", name)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        if name == "config.json":
            assert "nor complete in the hub's cache" in backbone_refused("language_model", "them/language_model")
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert load_backbone("language_model", "them/language_model", None, torch.float32, {}).config.hidden_size == 32


@pytest.mark.parametrize(
    ("status", "words"),
    [(503, "out of order (503)"), (429, "too many requests"), (418, "the hub answers closed on Sundays")],
)
def test_a_hub_in_trouble(hub, monkeypatch, status, words):
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    hub.down = status
    assert words in refused()


def test_a_full_disk_is_named(hub, tiny_model, monkeypatch, tmp_path):
    hub.add("me/model", tiny_model)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    assert refused() == f"model me/model cannot be downloaded to {tmp_path / 'cache'}: No space left on device"


@pytest.mark.parametrize("name", ["a/b/c", "a b/c", "./a", "/nowhere/a", "plain"])
def test_what_cannot_be_an_id_is_not_asked_for(hub, name):
    assert "no model at" in refused(name) or "neither a folder" in refused(name)
    assert hub.asked == []


def test_upload_and_download_give_the_same_model(hub, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "run")
    for extra in ("recipe.yaml", "log.txt", "checkpoint-5/model.safetensors", "events.out", ".env"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"secret")
    model, processor = MomeForSpeechRecognition.from_pretrained(folder), MomeProcessor.from_pretrained(folder)
    processor.save_pretrained(folder)
    model.save_pretrained(folder, push_to_hub=True, repo_id="me/model", token="t", commit_message="First")
    there = hub.repos["me/model"].files("main")[1]
    assert set(there) == {path.relative_to(tiny_model).as_posix() for path in tiny_model.rglob("*") if path.is_file()}
    assert b"secret" not in there.values()
    loaded = mome.load("me/model").model
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_push_to_hub_of_a_model_that_is_not_saved(hub, tiny_model):
    model = MomeForSpeechRecognition.from_pretrained(tiny_model)
    address = model.push_to_hub("me/model", revision="main", private=True)
    assert address.startswith(f"{hub.url}/me/model/commit/")
    MomeProcessor.from_pretrained(tiny_model).push_to_hub("me/model")
    mome.load("me/model")


def test_a_model_that_refers_to_this_machine_is_not_uploaded(hub, parts, tmp_path):
    model = MomeForSpeechRecognition.from_pretrained(parts)
    for kind in BACKBONES:
        setattr(model.config, kind, str(parts / kind))
    for push in (
        lambda: model.push_to_hub("me/model"),
        lambda: model.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="me/model"),
    ):
        with pytest.raises(MomeError, match="which others do not have: upload with self_contained=True"):
            push()
    assert hub.asked == []
    assert not (tmp_path / "out").exists()
    model.push_to_hub("me/model", self_contained=True)
    assert "language_model/model.safetensors" in hub.repos["me/model"].files("main")[1]


def test_uploads_that_are_refused(hub, tiny_model, monkeypatch):
    model = MomeForSpeechRecognition.from_pretrained(tiny_model)
    hub.writers = {"good"}

    def message(name: str = "me/model", **options) -> str:
        with pytest.raises(MomeError) as caught:
            model.push_to_hub(name, **options)
        return one_line(caught)

    assert "your login does not allow it (401): log in with 'hf auth login'" in message()
    assert "your login does not allow it (403)" in message(token="bad")
    assert "the name is not possible" in message("me//model")
    model.push_to_hub("me/model", token="good")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it to upload" in message()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use(monkeypatch, "http://127.0.0.1:9")
    assert "it cannot be reached" in message()


def test_weights_have_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        shared_model().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert len([path for path in files if path.suffix == ".safetensors"]) == 4
    assert load_file(tmp_path / "model" / "model.safetensors")


@pytest.mark.slow
def test_the_environment_is_heeded(tiny_model, tmp_path):
    """``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are read when the program starts, so a program is started."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    }

    def inspect(**extra: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mome", "inspect", "me/model", "--json"]
        return subprocess.run(command, env=environment | extra, capture_output=True, text=True, timeout=120)

    with running() as server:
        server.add("me/model", tiny_model)
        empty = inspect(HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1")
        assert (empty.returncode, empty.stdout, server.asked) == (2, "", [])
        assert "HF_HUB_OFFLINE is set: unset it once to download it" in " ".join(empty.stderr.split())
        assert json.loads(inspect(HF_ENDPOINT=server.url).stdout)["subject"] == "me/model"
