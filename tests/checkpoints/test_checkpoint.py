"""Saving and loading: files, unchanged weights, and messages for broken folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    WhisperFeatureExtractor,
)

import mome
from mome import MomeConfig, MomeError, MomeForSpeechRecognition, MomeProcessor
from mome.checkpoints import checkpoint, source
from mome.checkpoints.folder import read_config
from mome.config.fields import BACKBONES
from mome.rates import Rates
from tests.model.build import ADAPTERS, ALL_RATES, KINDS, make_config, make_model, raw_inputs, shared_model, transcripts

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])


@torch.no_grad()
def logits(model: MomeForSpeechRecognition, rates: Rates = ALL_RATES[0]) -> torch.Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=rates).logits


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the three backbones of ``make_model()``, as if they were elsewhere."""
    folder = tmp_path_factory.mktemp("backbones")
    shared_model().save_pretrained(folder)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def saved(parts: Path, tmp_path: Path) -> Path:
    """A checkpoint that refers to its backbones."""
    return save_referring(parts, tmp_path / "saved")


def save_referring(parts: Path, folder: Path) -> Path:
    model = make_model()
    for kind in BACKBONES:
        setattr(model.config, kind, str(parts / kind))
    model.save_pretrained(folder)
    return folder


def test_only_what_was_trained_is_written(saved, parts):
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors"}
    model, written = shared_model(), load_file(saved / "model.safetensors")
    assert set(written) == {name for name, value in model.named_parameters() if value.requires_grad}
    assert json.loads((saved / "config.json").read_text())["language_model"] == str(parts / "language_model")
    loaded = MomeForSpeechRecognition.from_pretrained(saved)
    for rates in ALL_RATES:
        assert torch.equal(logits(loaded, rates), logits(model, rates))
    assert not loaded.training
    trained = {name for name, value in loaded.named_parameters() if value.requires_grad}
    assert trained == set(written)


@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_self_contained_checkpoints_can_be_moved(tmp_path, family, adapter):
    model = shared_model(family, adapter)
    model.save_pretrained(tmp_path / "there")
    shutil.move(tmp_path / "there", tmp_path / "here")
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path / "here")
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    shutil.rmtree(tmp_path / "here")
    assert torch.equal(logits(MomeForSpeechRecognition.from_pretrained(tmp_path / "again")), logits(model))


def test_a_referring_checkpoint_can_be_made_self_contained_and_its_backbones_are_bare(saved, tmp_path):
    model = MomeForSpeechRecognition.from_pretrained(saved)
    model.save_pretrained(tmp_path / "whole", self_contained=True)
    config = MomeConfig.from_pretrained(tmp_path / "whole")
    assert [getattr(config, kind) for kind in BACKBONES] == [f"./{kind}" for kind in BACKBONES]
    assert model.config.language_model != "./language_model"  # the model itself still refers
    bare = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "language_model")
    own = {n: v for n, v in model.language_model.state_dict().items() if ".mome." not in n}
    assert set(load_file(tmp_path / "whole" / "language_model" / "model.safetensors")) == set(own)
    assert set(bare.state_dict()) == set(own)
    assert all(torch.equal(value, own[name]) for name, value in bare.state_dict().items())


def test_auto_classes(tiny_model):
    config = AutoConfig.from_pretrained(tiny_model)
    assert type(config) is MomeConfig
    model = AutoModelForMultimodalLM.from_pretrained(tiny_model)
    assert type(model) is MomeForSpeechRecognition
    assert type(AutoProcessor.from_pretrained(tiny_model)) is MomeProcessor
    same = MomeForSpeechRecognition.from_pretrained(tiny_model).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    half = MomeForSpeechRecognition.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def test_the_dtype_can_be_named_or_left_to_the_language_model(tiny_model, tmp_path):
    model = MomeForSpeechRecognition.from_pretrained(tiny_model, dtype="bfloat16", device_map="cpu")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    shutil.copytree(tiny_model, tmp_path / "model")
    model.language_model.save_pretrained(tmp_path / "model" / "language_model", state_dict=bare_weights(model))
    for load in (MomeForSpeechRecognition, AutoModelForMultimodalLM):
        mixed = load.from_pretrained(tmp_path / "model", dtype="auto")
        assert {value.dtype for value in mixed.parameters()} == {torch.bfloat16}
    plain = MomeForSpeechRecognition.from_pretrained(tiny_model, dtype="auto")
    assert {value.dtype for value in plain.parameters()} == {torch.float32}


def bare_weights(model: MomeForSpeechRecognition) -> dict[str, torch.Tensor]:
    return {n: v for n, v in model.language_model.state_dict().items() if ".mome." not in n}


def test_the_device_can_be_chosen(tiny_model):
    for load in (MomeForSpeechRecognition, AutoModelForMultimodalLM):
        assert load.from_pretrained(tiny_model, device_map="meta").device.type == "meta"
    assert mome.load(tiny_model, device_map="meta").model.device.type == "meta"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("device_map", "auto"),
        ("device_map", {"language_model": 0}),
        ("dtype", "half-size"),
        ("torch_dtype", torch.float16),
        ("low_cpu_mem_usage", True),
        ("trust_remote_code", True),
    ],
)
def test_keywords_that_would_do_nothing_are_refused(tiny_model, keyword, value):
    for load in (MomeForSpeechRecognition.from_pretrained, mome.load):
        with pytest.raises(ValueError, match=rf"{keyword}.* is not supported"):
            load(tiny_model, **{keyword: value})


@pytest.mark.parametrize("load", [MomeForSpeechRecognition.from_pretrained, mome.load])
def test_what_the_hub_is_told_reaches_every_download(saved, tiny_model, monkeypatch, tmp_path, load):
    asked, backbone = [], checkpoint.load_backbone
    told = {"token": "secret", "cache_dir": tmp_path, "local_files_only": True}

    def download(name: str, *, allow_patterns, tqdm_class=None, **options) -> str:
        asked.append((name, options))
        return str(saved)

    def load_backbone(kind, *arguments, **options):
        asked.append((kind, options))
        return backbone(kind, *arguments, **options)

    config = read_config(saved)
    extractor = WhisperFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins, chunk_length=config.audio_config.max_source_positions // 50
    )
    MomeProcessor.for_config(config, mome.load(tiny_model).processor.tokenizer, extractor).save_pretrained(saved)
    monkeypatch.setattr(source, "snapshot_download", download)
    monkeypatch.setattr(checkpoint, "load_backbone", load_backbone)
    load("someone/something", revision="v2", **told)
    assert asked[0] == ("someone/something", {"revision": "v2", **told})
    assert sorted(asked[1:]) == [(kind, told) for kind in sorted(BACKBONES)]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_config_survives_json(tmp_path, adapter):
    config = make_config("gemma3", adapter, description="for tests", balance_weight=0.5, video_markers=[8, 9])
    config.save_pretrained(tmp_path)
    read = MomeConfig.from_pretrained(tmp_path)
    assert read.to_dict() == config.to_dict()
    assert [type(part) for part in (read.audio_config, read.video_config, read.text_config)] == [
        type(part) for part in (config.audio_config, config.video_config, config.text_config)
    ]
    assert read.rate_set == mome.RateSet((4, 16), (2, 5))
    assert read.adapter_config == config.adapter_config
    assert read.text_ids("vsr") == [3, 5]
    assert MomeConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


@pytest.mark.parametrize("missing", ["audio", "video"])
def test_a_model_of_one_modality(tmp_path, missing):
    model = make_model(**{f"{missing}_config": None, f"{missing}_rates": ()})
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    rates = Rates(4, None) if missing == "video" else Rates(None, 2)
    assert torch.equal(logits(loaded, rates), logits(model, rates))
    assert not (tmp_path / f"{missing}_encoder").exists()


def test_other_processes_write_nothing_and_given_weights_are_taken(tmp_path, parts):
    model = make_model()
    model.save_pretrained(tmp_path / "nothing", is_main_process=False)
    assert not (tmp_path / "nothing").exists()
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "zeros", state_dict=zeros)
    written = load_file(tmp_path / "zeros" / "model.safetensors")
    assert set(written) == set(model.trained_state_dict())
    assert not any(value.any() for value in written.values())


def change(folder: Path, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


PROJECTOR = "connector.video.1.0.weight"
FAULTS = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config cut": (lambda f: truncate(f / "config.json"), "config.json is not a readable"),
    "config of another model": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama"}'),
        "type llama, not a speech recogniser",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "weights cut": (lambda f: truncate(f / "model.safetensors"), "model.safetensors is damaged"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "a weight too few": (lambda f: change(f, lambda s: s.pop(PROJECTOR)), f"missing {PROJECTOR}"),
    "a weight too many": (lambda f: change(f, lambda s: s.update(x=torch.ones(1))), "unknown x"),
    "a weight of another shape": (
        lambda f: change(f, lambda s: s.update({PROJECTOR: torch.ones(2, 3)})),
        rf"{PROJECTOR} is \(2, 3\) instead of \(20, 32\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_folders_are_named(saved, fault):
    break_it, message = FAULTS[fault]
    break_it(saved)
    with pytest.raises(MomeError, match=message) as caught:
        MomeForSpeechRecognition.from_pretrained(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_misfit_weights_change_nothing():
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in model.trained_state_dict().items()}
    state.pop(PROJECTOR)
    with pytest.raises(MomeError, match="missing"):
        model.load_trained(state, "here")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_broken_backbones_are_named(tmp_path, kind, fault):
    shared_model().save_pretrained(tmp_path)
    if fault == "missing":
        shutil.rmtree(tmp_path / kind)
    else:
        truncate(tmp_path / kind / "model.safetensors")
    with pytest.raises(MomeError, match=f"the {kind.replace('_', ' ')} .*{kind} cannot be loaded"):
        MomeForSpeechRecognition.from_pretrained(tmp_path)
