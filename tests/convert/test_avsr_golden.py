"""Published recognisers, converted, against the numbers of the original implementations."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import mome
from mome.convert.avsr import convert
from mome.model import MomeForSpeechRecognition
from tests.conftest import Golden
from tests.convert.published import backbones, published
from tests.model.golden import MODALITIES, batch, close, has_norm, is_tied, listed_rates
from tests.model.test_golden import check_encoders, check_generation, check_pass, check_projectors, passes

PARTS = ("audio_encoder", "language_model", "video_encoder")
both = pytest.mark.parametrize("present", [True, False], ids=["referred", "stored"])


def check_config(golden: Golden, model: MomeForSpeechRecognition) -> None:
    """Compare the converted configuration with that of the case."""
    config, ours = golden.config, model.config
    sides = ("audio", "video") if config["modality"] == "audiovisual" else (config["modality"],)
    rates = {side: listed_rates(config, side) for side in sides}
    assert (ours.audio_rates, ours.video_rates) == (rates.get("audio", []), rates.get("video", []))
    stacked = config.get("compression") == "stack" and max(map(max, rates.values())) > 1
    assert ours.compression == ("stack" if stacked else "average")
    assert ours.projector_norm == has_norm(golden.state)
    assert ours.adapter_groups == (ours.tasks if config.get("task_specific") else [])
    lora = golden.state.get("video_encoder.encoder.layers.0.self_attn.lora_down_Q.weight")
    assert (ours.video_adapter or {}).get("bottleneck") == (None if lora is None else len(lora))


@torch.no_grad()
def check(system: str, golden: Golden, tmp_path, present: bool, projectors: bool = True) -> MomeForSpeechRecognition:
    """Convert the case with or without its backbones' weights, and compare all outputs of the loaded folder."""
    sources = backbones(golden, tmp_path, weights=present)
    account = convert(system, published(golden, tmp_path), tmp_path / "out", sources)
    assert account.tensors == len(golden.state)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {"added_embeddings"} <= stored.keys()
    assert ("added_head" in stored) != is_tied(golden.config)
    model = mome.load(tmp_path / "out").model
    for kind in PARTS:
        inside = not present and getattr(sources, kind) is not None
        assert getattr(model.config, kind) == (f"./{kind}" if inside else getattr(sources, kind))
        assert (tmp_path / "out" / kind).exists() == inside
        frozen = {key for key in stored if key.startswith(kind) and ".lora." not in key}
        assert all(key.endswith(("running_mean", "running_var")) for key in frozen)
    check_config(golden, model)
    encoded = model.encode(**batch(golden.inputs))
    check_encoders(golden, encoded)
    if projectors:
        check_projectors(golden, model, encoded)
    # With the weights referred to, the model is the same one: a pass will do.
    for name in passes(golden)[: 1 if present else None]:
        output = check_pass(golden, model, encoded, name)
        if system == "llama-avsr":
            close(output.loss, golden.outputs["loss"])
    if not present:
        check_generation(golden, model)
    return model


@both
@pytest.mark.golden("llama-avsr")
def test_golden_llama_avsr(golden, tmp_path, present):
    model = check("llama-avsr", golden, tmp_path, present)
    assert model.config.tasks == [MODALITIES[golden.config["modality"]]]


@both
@pytest.mark.golden("llama-mtsk")
def test_golden_llama_mtsk(golden, tmp_path, present):
    model = check("llama-mtsk", golden, tmp_path, present)
    assert model.config.tasks == [MODALITIES[golden.config["modality"]]]


@both
@pytest.mark.golden("omni-avsr")
def test_golden_omni_avsr(golden, tmp_path, present):
    model = check("omni-avsr", golden, tmp_path, present, projectors=False)
    assert model.config.tasks == ["avsr", "asr", "vsr"]


@both
@pytest.mark.golden("llama-smop")
@torch.no_grad()
def test_golden_llama_smop(golden, tmp_path, present):
    model = check("llama-smop", golden, tmp_path, present, projectors=False)
    assert model.config.tasks == ["avsr"]
    connector = model.config.connector_config
    assert (connector.experts, connector.top_k) == (golden.config["experts"], golden.config["top_k"])
