"""Training on backbones from the hub: everything that belongs to them is fetched, and refusals say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import WhisperFeatureExtractor

from mome.errors import MomeError
from mome.model.processor import MomeProcessor
from mome.training.build import build
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


def upload(hub: Hub, folder: Path, gated: int = 0) -> None:
    toy_backbones(folder)
    processor = MomeProcessor.from_pretrained(folder)
    processor.tokenizer.save_pretrained(folder / "language_model")
    processor.feature_extractor.save_pretrained(folder / "audio_encoder")
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
