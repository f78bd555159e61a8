"""Clips and transcripts that the language model cannot hold are refused before they are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mome.errors import MomeError
from mome.rates import Rates
from mome.training.run import train
from mome.training.schedule import RateSchedule
from tests.training.toy import SENTENCES, toy_backbones, toy_corpus, toy_recipe

POSITIONS = 100


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    manifest, backbones = toy_corpus(tmp_path / "data"), toy_backbones(tmp_path / "backbones")
    file = backbones / "language_model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": POSITIONS}))
    return toy_recipe(tmp_path, manifest, backbones, tmp_path / "run")


def say(recipe: Path, split: str, words: int) -> None:
    """Put so many words into the last sentence of a split; each is a token."""
    manifest = recipe.parent / "data" / "manifest.csv"
    before, found, after = manifest.read_text().rpartition(f"{split}_2_2.mp4,{split},{SENTENCES[2]}")
    assert found
    manifest.write_text(f"{before}{split}_2_2.mp4,{split},{' '.join(['blue'] * words)}{after}")


def test_a_text_longer_than_the_language_model_is_refused_before_clips_are_read(recipe: Path, tmp_path: Path):
    say(recipe, "train", POSITIONS)
    with pytest.raises(MomeError, match=rf"clip train_2_2: its text has {POSITIONS + 1} tokens, more than the 100 "):
        train(recipe)
    assert not (tmp_path / "cache").exists()


def test_a_clip_with_its_text_is_refused_before_it_is_trained_on(recipe: Path, tmp_path: Path):
    say(recipe, "train", 80)  # with its end 81 tokens, and there are 22 frames or more at rates 4,2
    with pytest.raises(MomeError, match=r"clip train_2_2 makes \d+ tokens at rates 4,2, more than the 19 "):
        train(recipe)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert train(recipe, ["optim.rates=['-,5']", "validation.rates=[]", "optim.steps=1"]) == tmp_path / "run"


def test_the_finest_rates_of_what_is_drawn():
    rates = [Rates(4, 2), Rates(16, 5), Rates(None, 5)]
    assert RateSchedule(rates, 0).bounds() == rates
    assert RateSchedule(rates, 0, up_to=9).bounds() == [Rates(1, 1), Rates(None, 1)]
