"""Published names and the names of this package correspond one to one."""

from __future__ import annotations

import pytest
import torch

from mome.convert.avsr import convert
from mome.convert.avsr_names import PROMPTS, pretraining_only, published_name, renamed
from mome.errors import MomeError
from tests.convert.published import backbones, published, random_case

CASES = {
    "llama-avsr": {},
    "llama-mtsk": {},
    "llama-mtsk with one projector": {"single": True},
    "omni-avsr": {},
    "omni-avsr of tasks": {"task_specific": True},
    "omni-avsr of tasks and all": {"task_specific": True, "shared": True},
    "llama-smop": {"norm": True},
}
RATES = {"audio": [4, 16], "video": [2, 5]}
LAYER = "llm.model.layers.0.self_attn"
VIDEO = "video_encoder.encoder.layers.0.self_attn"


@pytest.mark.parametrize("name", CASES)
def test_the_files_names_are_found_back(name):
    state = random_case(name.split()[0], **CASES[name]).state
    state[f"{VIDEO}.lora_down_Q.weight"] = torch.zeros(1, 16)
    found = renamed(state, RATES)
    for ours, theirs in found.names.items():
        assert published_name(ours, state) == theirs
        assert theirs in state
    kept = {key for key in state if key not in PROMPTS and not pretraining_only(key)}
    assert set(found.names.values()) == kept
    assert found.clashes == []


@pytest.mark.parametrize(
    ("system", "extra", "message"),
    [
        ("llama-avsr", "language_model.model.norm.weight", "is not a name of the published code"),
        ("llama-avsr", "connector.audio.0.0.bias", "is not a name of the published code"),
        ("llama-mtsk", "connector.audio.1.2.weight", "is not a name of the published code"),
        ("llama-smop", "connector.audiovisual.gate.weight", "is not a name of the published code"),
        ("llama-avsr", f"{LAYER}.q_proj.lora.down.weight", "is not a name of the published code"),
        ("omni-avsr", f"{LAYER}.v_proj.lora.specific.up", "is not a name of the published code"),
        ("llama-avsr", "audio_proj.0.0.weight", "stands for the same as audio_proj.0.weight"),
        ("llama-avsr", f"{LAYER}.lora_down_Q_shared.weight", f"stands for the same as {LAYER}.lora_down_Q.weight"),
        ("llama-avsr", "audio_encoder.encoder.conv1.weight", "is unknown"),
        ("llama-avsr", "added_embeddings", "is unknown"),
        ("llama-mtsk", "audio_proj.00.0.weight", "is unknown"),
        ("llama-mtsk", "audio_proj.9.0.weight", "is unknown"),
    ],
)
def test_no_tensor_is_overwritten_or_ignored(tmp_path, system, extra, message):
    case = random_case(system, task_specific=system == "omni-avsr")
    assert extra not in case.state
    path = published(case, tmp_path, {extra: torch.zeros(12, 16)})
    with pytest.raises(MomeError) as caught:
        convert(system, path, tmp_path / "out", backbones(case, tmp_path))
    assert message in str(caught.value)
    assert extra in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{LAYER}.lora_up_V.audio.weight": None}, rf"\(1 difference\): {LAYER}\.lora_up_V\.audio\.weight is missing"),
        (
            {f"{LAYER}.lora_up_V.audio.weight": torch.zeros(3)},
            r"lora_up_V\.audio\.weight is \(3,\) instead of \(8, 2\)",
        ),
        ({f"{LAYER}.lora_up_V.audio.weight": torch.zeros(8, 2).to_sparse()}, r"lora_up_V\.audio\.weight is not an ord"),
        (
            {f"{LAYER}.lora_up_V.{name}.weight": None for name in ("audio", "video", "audiovisual")},
            r"\(3 differences\): .*lora_up_V\.audiovisual\.weight is missing, ",
        ),
        ({f"{LAYER}.lora_down_Q_shared.weight": None}, r"\(1 difference\): .*lora_down_Q_shared\.weight is missing"),
    ],
)
def test_updates_of_tasks_that_are_not_whole(tmp_path, change, message):
    case = random_case("omni-avsr", task_specific=True, shared=True)
    with pytest.raises(MomeError, match=message):
        convert("omni-avsr", published(case, tmp_path, change), tmp_path / "out", backbones(case, tmp_path))


def test_updates_of_tasks_that_the_system_has_not_are_not_dropped(tmp_path):
    case = random_case("llama-avsr", task_specific=True)
    with pytest.raises(
        MomeError, match=r"of Omni-AVSR \(it has .*lora_down_Q\.audio\.weight\): convert it as omni-avsr"
    ):
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", backbones(case, tmp_path))
