"""The models inside the package: what they refer to, and that their trained parts fit."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from mome.checkpoints.bundled import BUNDLED, BUNDLED_NAME
from mome.checkpoints.folder import WEIGHTS, read_config
from mome.checkpoints.names import has_tokenizer
from mome.model import MomeForSpeechRecognition


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_folder_is_small_and_its_trained_parts_fit(name):
    folder = BUNDLED[name]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 15e6
    with torch.device("meta"):
        model = MomeForSpeechRecognition(read_config(folder))
    with safe_open(folder / WEIGHTS, "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    expected = {key: value.shape for key, value in model.trained_state_dict().items()}
    assert {key: value.shape for key, value in stored.items()} == expected
    assert all(torch.isfinite(value).all() for value in stored.values())


def test_mome_base_refers_to_its_frozen_parts_by_hub_id():
    folder = BUNDLED["mome-base"]
    config = read_config(folder)
    assert config.audio_encoder == "openai/whisper-base"
    assert config.language_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert sorted(config.audio_rates) == [4, 8, 12, 16, 20]
    assert not any((folder / part).exists() for part in ("audio_encoder", "language_model"))
    assert not has_tokenizer(folder)
    assert BUNDLED_NAME != "mome-base"  # what needs no network stays the default
