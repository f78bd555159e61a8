"""Llama-AVSR with WavLM as its audio encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import WavLMConfig, WavLMModel

import mome
from mome.convert.avsr import Sources, convert
from mome.errors import MomeError
from mome.media import Clip
from tests.conftest import Golden
from tests.convert.published import WIDTH, backbones, published, random_case

CONFIG = WavLMConfig(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    conv_dim=(12,) * 7,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    conv_bias=True,
)
OLD = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@pytest.fixture
def wavlm() -> WavLMModel:
    torch.manual_seed(3)
    return WavLMModel(CONFIG).eval()


def with_wavlm(wavlm: WavLMModel, folder: Path, weights: bool = True, old: bool = False) -> tuple[Golden, Sources]:
    """A case of Llama-AVSR with WavLM, and its backbones."""
    case = random_case("llama-avsr", stack=3)
    sources = replace(backbones(case, folder), audio_rates=None, video_rates=None, audio_encoder=str(folder / "wavlm"))
    (wavlm if weights else wavlm.config).save_pretrained(folder / "wavlm")
    for key in [key for key in case.state if key.startswith("audio_encoder.")]:
        del case.state[key]
    for key, value in wavlm.state_dict().items():
        end = next((end for end in OLD if old and key.endswith(end)), None)
        name = key if end is None else key.replace(end, OLD[end])
        case.state[f"audio_encoder.{name}"] = value
    return case, sources


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
@pytest.mark.parametrize("weights", [True, False], ids=["referred", "stored"])
@torch.no_grad()
def test_its_tokens_are_those_of_the_published_code(tmp_path, wavlm, weights, old):
    case, sources = with_wavlm(wavlm, tmp_path, weights, old)
    account = convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert account.tensors == len(case.state)
    assert (tmp_path / "out" / "audio_encoder").exists() != weights
    loaded = mome.load(tmp_path / "out", compat="official")
    assert loaded.model.config.audio_rates == [3]
    sound = np.random.default_rng(1).uniform(-0.3, 0.5, 16_500).astype(np.float32)
    clip = Clip(sound, np.full((25, 96, 96), 99, np.uint8), 1.0)
    # The published loader cuts the sound to the video, 640 samples a frame, and normalises it.
    normal = F.layer_norm(torch.from_numpy(sound[:16_000]), (16_000,), eps=1e-8)
    theirs = wavlm(normal[None]).last_hidden_state
    ours = loaded.model.encode(**loaded.processor([clip])).audio
    assert ours.lengths.tolist() == [theirs.shape[1]] == [49]
    torch.testing.assert_close(ours.frames, theirs, rtol=0, atol=1e-5)
    written = loaded.transcribe(clip, "3,3", max_new_tokens=2, num_beams=1)
    assert written.tokens.audio == 49 // 3


def test_its_settings_must_be_named(tmp_path, wavlm):
    case, sources = with_wavlm(wavlm, tmp_path)
    path = published(case, tmp_path)
    with pytest.raises(MomeError, match=r"has a WavLM, whose settings its weights do not show: give --audio-encoder"):
        convert("llama-avsr", path, tmp_path / "out", replace(sources, audio_encoder=None))
    whisper = str(tmp_path / "audio_encoder")
    with pytest.raises(MomeError, match="is of type whisper, where the checkpoint needs wavlm"):
        convert("llama-avsr", path, tmp_path / "out", replace(sources, audio_encoder=whisper))


def test_a_wavlm_of_another_size_is_listed(tmp_path, wavlm):
    case, sources = with_wavlm(wavlm, tmp_path)
    key = "audio_encoder.encoder.layers.1.final_layer_norm.bias"
    with pytest.raises(MomeError, match=rf"\(1 difference\): {key} is missing"):
        convert("llama-avsr", published(case, tmp_path, {key: None}), tmp_path / "out", sources)
