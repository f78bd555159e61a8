"""Llama-AVSR with AV-HuBERT for the sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import mome
from mome.convert.avsr import Sources, convert
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel, stacked_log_filterbank
from mome.errors import MomeError
from mome.media import Clip
from mome.rates import Rates
from tests.conftest import Golden
from tests.convert.published import ADDED, PROMPT_IDS, ROWS, WIDTH, backbones, published, random_case

CONFIG = AVHubertConfig(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    resnet_width=2,
    conv_pos=8,
    conv_pos_groups=4,
)
START, AUDIO, VIDEO = ROWS - 2, (ROWS + 1, ROWS + 2), (ROWS + 3, ROWS + 4)  # ids of the start and marker tokens
WRITTEN = torch.tensor([[7, 8, 9, ROWS - 1]])


def avhubert() -> AVHubertModel:
    torch.manual_seed(3)
    return AVHubertModel(CONFIG).eval()


def put(case: Golden, part: str, model: AVHubertModel) -> None:
    """Replace an encoder of the case."""
    for key in [key for key in case.state if key.startswith(f"{part}.")]:
        del case.state[key]
    for key, value in model.state_dict().items():
        case.state[f"{part}.{key}"] = value.detach().clone()
    case.state[f"{part}.mask_emb"] = torch.zeros(104)


def clip(sound: int, frames: int) -> Clip:
    generator = np.random.default_rng(1)
    mouth = generator.integers(0, 255, (frames, 96, 96), np.uint8)
    return Clip(generator.uniform(-0.3, 0.5, sound).astype(np.float32), mouth, frames / 25)


def language_model(case: Golden) -> LlamaForCausalLM:
    """The case's language model with its LoRA in the weights."""
    made = LlamaForCausalLM(
        LlamaConfig(**case.config["llm"] | {"vocab_size": ROWS + ADDED}, tie_word_embeddings=case.config["tie"])
    ).eval()
    scale = case.config["lora"]["ALPHA"] / case.config["lora"]["RANK"]
    own = {key.removeprefix("llm."): value for key, value in case.state.items() if key.startswith("llm.")}
    for key in [key for key in own if ".lora_up_" in key]:
        side = key.split(".lora_up_")[1][0]
        weight = key.split(".lora_up_")[0] + f".{side.lower()}_proj.weight"
        own[weight] = own[weight] + scale * own[key] @ own[key.replace("lora_up", "lora_down")]
    made.load_state_dict({key: value for key, value in own.items() if ".lora_" not in key})
    return made


def projected(case: Golden, name: str, frames: Tensor, rate: int) -> Tensor:
    """Tokens of stacked frames ``(1, T, D)``; a remainder of frames is left out."""
    state, count = case.state, frames.shape[1] // rate
    stacked = frames[:, : count * rate].reshape(1, count, -1)
    inner = torch.relu(stacked @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
    return inner @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"]


def logits(case: Golden, parts: list[Tensor | list[int]]) -> Tensor:
    """Logits of the written tokens after start, ``parts`` and prompt, by plain Transformers."""
    model = language_model(case)
    embed = model.get_input_embeddings()
    rows = [part if isinstance(part, Tensor) else embed(torch.tensor([part])) for part in parts]
    sequence = torch.cat([*rows, embed(WRITTEN[:, :-1])], dim=1)
    return model(inputs_embeds=sequence).logits[:, -WRITTEN.shape[1] :]


def heard(wave: np.ndarray) -> Tensor:
    """AV-HuBERT's input for sound, ``(1, T, 104)``."""
    return torch.from_numpy(stacked_log_filterbank(wave))[None]


def for_sound(folder: Path, weights: bool = True) -> tuple[Golden, Sources]:
    """A case of speech recognition by AV-HuBERT, and its backbones."""
    case, model = random_case("llama-avsr", "audio", stack=3), avhubert()
    sources = replace(backbones(case, folder), audio_rates=None, audio_encoder=str(folder / "avhubert"))
    (model if weights else model.config).save_pretrained(folder / "avhubert")
    put(case, "audio_encoder", model)
    return case, sources


@pytest.mark.parametrize("weights", [True, False], ids=["referred", "stored"])
@torch.no_grad()
def test_for_sound_alone(tmp_path, weights):
    case, sources = for_sound(tmp_path, weights)
    account = convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert account.tensors == len(case.state)
    assert any(group.name == "audio_encoder.*" and group.tensors == 1 for group in account.unused)
    assert (tmp_path / "out" / "audio_encoder" / "NOTICE.md").exists() != weights
    for compat in (None, "official"):
        loaded = mome.load(tmp_path / "out", compat=compat)
        assert (loaded.model.config.tasks, loaded.model.config.audio_rates) == (["asr"], [3])
        spoken = clip(17_000, 25)
        inputs = loaded.processor([spoken], video=False)
        ours = loaded.model(**inputs, labels=WRITTEN, rates=Rates(3, None)).logits
        frames = avhubert()(input_features=heard(spoken.audio)).frames
        tokens = projected(case, "audio_proj", frames, 3)
        prompt = PROMPT_IDS["Transcribe speech to text."]
        theirs = logits(case, [[START], [AUDIO[0]], tokens, [AUDIO[1]], prompt])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
        written = loaded.transcribe(spoken, "3,-", max_new_tokens=2, num_beams=1)
        assert written.tokens.audio == tokens.shape[1] == 27 // 3


def test_without_a_name_it_is_stored(tmp_path):
    case, sources = for_sound(tmp_path)
    with pytest.raises(MomeError, match="heads"):  # narrower ones than in the published sizes
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", replace(sources, audio_encoder=None))
    whisper = str(tmp_path / "audio_encoder")
    with pytest.raises(MomeError, match="is of type whisper, where the checkpoint needs avhubert"):
        convert("llama-avsr", published(case, tmp_path), tmp_path / "out", replace(sources, audio_encoder=whisper))
