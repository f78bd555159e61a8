"""Training on backbones from the hub: everything that belongs to them is fetched, and refusals say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import WhisperFeatureExtractor

from mome.convert.avsr_backbones import LocalWeights, find_weights
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor
from mome.training.build import build, local_tokenizer, model_config
from mome.training.recipe import ModelRecipe, Recipe
from tests.checkpoints.fake_hub import Hub
from tests.training.toy import toy_backbones

RECIPE = Recipe(
    ModelRecipe(
        audio_encoder="them/whisper",
        video_encoder="them/lips",
        language_model="them/llama",
        audio_context="clip",
        audio_rates=[4],
        video_rates=[2],
        projector_hidden=12,
    )
)


def complete(folder: Path) -> Path:
    """Backbones that have their tokenizer and feature extractor with them."""
    toy_backbones(folder)
    processor = MomeProcessor.from_pretrained(folder)
    processor.tokenizer.save_pretrained(folder / "language_model")
    processor.feature_extractor.save_pretrained(folder / "audio_encoder")
    return folder


def upload(hub: Hub, folder: Path, gated: int = 0) -> None:
    complete(folder)
    hub.add("them/llama", folder / "language_model", gated=gated)
    hub.add("them/whisper", folder / "audio_encoder")
    hub.add("them/lips", folder / "video_encoder")


def test_backbones_come_with_their_tokenizer_and_feature_extractor(hub, tmp_path):
    upload(hub, tmp_path / "parts")
    model, processor = build(RECIPE)
    assert isinstance(processor.feature_extractor, WhisperFeatureExtractor)
    assert model.config.prompt_ids["asr"] == processor.tokenizer("Transcribe speech to text.").input_ids
    assert model.config.language_model == "them/llama"


def test_a_gated_language_model_names_its_licence_page(hub, tmp_path):
    upload(hub, tmp_path / "parts", gated=403)
    with pytest.raises(
        MomeError, match=r"them/llama is gated: accept its licence at https://huggingface\.co/them/llama"
    ):
        build(RECIPE)


@pytest.mark.parametrize(
    ("part", "file", "message"),
    [
        ("audio_encoder", "preprocessor_config.json", "the feature extractor of them/whisper is not in its repository"),
        ("language_model", "tokenizer", "the tokenizer of them/llama is not in its repository"),
    ],
)
def test_what_a_repository_lacks_is_named(hub, tmp_path, part, file, message):
    upload(hub, tmp_path / "parts")
    name = {"audio_encoder": "them/whisper", "language_model": "them/llama"}[part]
    repo = hub.repos[name]
    sha = repo.branches["main"]
    repo.commits[sha] = {path: data for path, data in repo.commits[sha].items() if not path.startswith(file)}
    with pytest.raises(MomeError, match=message):
        build(RECIPE)


def test_backbones_of_the_chosen_folder_stand_for_those_of_the_hub(hub, tmp_path, monkeypatch):
    parts = complete(tmp_path / "parts")
    (tmp_path / "kept" / "them").mkdir(parents=True)
    for name, kind in (("whisper", "audio_encoder"), ("lips", "video_encoder"), ("llama", "language_model")):
        (parts / kind).rename(tmp_path / "kept" / "them" / name)
    monkeypatch.setenv("MOME_BACKBONES", str(tmp_path / "kept"))

    assert model_config(RECIPE, download=False).text_config.hidden_size == 48
    assert local_tokenizer("them/llama") is not None
    model, processor = build(RECIPE)
    assert isinstance(processor.feature_extractor, WhisperFeatureExtractor)
    assert model.language_model.name_or_path == model.config.language_model == "them/llama"
    model.config.language_model_revision = "v1"
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    assert not (tmp_path / "run" / "language_model").exists()

    again = MomeForSpeechRecognition.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert again.config.audio_encoder == "them/whisper"
    found = find_weights("them/llama")
    assert isinstance(found, LocalWeights)
    assert (found.reference, found.revision) == ("them/llama", None)
    assert hub.asked == []

    monkeypatch.delenv("MOME_BACKBONES")
    with pytest.raises(MomeError, match="the language model them/llama is neither a folder here nor found on the hub"):
        MomeForSpeechRecognition.from_pretrained(tmp_path / "run")
