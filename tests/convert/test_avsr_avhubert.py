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
from tests.model.test_joint import awaken

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
    model = AVHubertModel(CONFIG).eval()
    awaken(model)
    return model


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


RATE, LORA_SCALE = 2, 2  # of the LoRA in AV-HuBERT, fixed in the original's code


def lora_into(state: dict[str, Tensor], prefix: str) -> None:
    """Put random low-rank updates among an encoder's weights."""
    generator = torch.Generator().manual_seed(5)
    for layer in range(CONFIG.num_hidden_layers):
        for side in "QV":
            name = f"{prefix}.encoder.layers.{layer}.self_attn.lora_"
            state[f"{name}down_{side}.weight"] = torch.randn(1, WIDTH, generator=generator) / 4
            state[f"{name}up_{side}.weight"] = torch.randn(WIDTH, 1, generator=generator) / 4


def adapted(state: dict[str, Tensor], prefix: str) -> AVHubertModel:
    """The encoder with its updates in its weights and with the statistics of the file."""
    own = {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
    for key in [key for key in own if ".lora_up_" in key]:
        before, side = key.removesuffix(".weight").split(".lora_up_")
        weight = f"{before}.{side.lower()}_proj.weight"
        own[weight] = own[weight] + LORA_SCALE * own[key] @ own[key.replace("lora_up", "lora_down")]
    model = avhubert()
    model.load_state_dict({key: own[key] for key in model.state_dict()})
    return model


def fused_case(folder: Path, joint: bool, lora: bool, weights: bool) -> tuple[Golden, Sources]:
    """A case of Llama-AVSR with one AV-HuBERT, and its backbones."""
    case, model = random_case("llama-avsr", "audio video", stack=RATE), avhubert()
    told = {"audio_rates": None, "video_rates": None, "audio_encoder": None}
    sources = replace(backbones(case, folder), **told, video_encoder=str(folder / "avhubert"))
    (model if weights else model.config).save_pretrained(folder / "avhubert")
    for key in [key for key in case.state if key.startswith(("audio_encoder.", "video_encoder."))]:
        del case.state[key]
    for key, value in model.state_dict().items():
        case.state[f"audiovisual_encoder.{key}"] = value.clone() + (0.1 if "running" in key else 0)
    case.state["audiovisual_encoder.mask_emb"] = torch.zeros(104)
    if lora:
        lora_into(case.state, "audiovisual_encoder")
    if joint:
        for key in [key for key in case.state if key.startswith(("audio_proj.", "video_proj."))]:
            value = case.state.pop(key)
            case.state[key.replace("audio_proj", "audiovisual_proj").replace("video_proj", "audiovisual_proj")] = value
    return case, sources


@pytest.mark.parametrize("joint", [True, False], ids=["one projector", "two projectors"])
@pytest.mark.parametrize("lora", [True, False], ids=["adapted", "frozen"])
@pytest.mark.parametrize("weights", [True, False], ids=["referred", "stored"])
@torch.no_grad()
def test_for_sound_and_lips(tmp_path, joint, lora, weights):
    case, sources = fused_case(tmp_path, joint, lora, weights)
    account = convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert account.tensors == len(case.state)
    stored = [] if weights else (["video_encoder"] if joint else ["audio_encoder", "video_encoder"])
    stored = ["audio_encoder"] if weights and lora and not joint else stored  # its weights have the update in them
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(stored)
    loaded = mome.load(tmp_path / "out", compat="official")
    config = loaded.model.config
    assert (config.tasks, config.audio_rates, config.video_rates) == (["avsr"], [RATE], [RATE])
    assert (loaded.model.audio_encoder is None) == joint
    spoken = clip(25 * 640, 25)
    ours = loaded.model(**loaded.processor([spoken]), labels=WRITTEN, rates=Rates(RATE, RATE)).logits
    model, seen = adapted(case.state, "audiovisual_encoder"), torch.from_numpy(loaded.processor.video(spoken.mouth))
    if joint:
        frames = model(seen[None], None, heard(spoken.audio)).frames
        parts: list = [projected(case, "audiovisual_proj", frames, RATE)]
    else:  # an odd frame of video is cut off before encoding
        sound, lips = model(None, None, heard(spoken.audio)).frames, model(seen[None]).frames
        assert (sound.shape[1], lips.shape[1]) == (25, 24)
        parts = [[AUDIO[0]], projected(case, "audio_proj", sound, RATE), [AUDIO[1]]]
        parts += [[VIDEO[0]], projected(case, "video_proj", lips, RATE), [VIDEO[1]]]
    sounds = heard(spoken.audio)[:, : len(seen)]
    blank = model(torch.zeros_like(seen)[None], None, sounds).frames
    assert (model(seen[None], None, sounds).frames - blank).abs().max() > 0.1  # the lips matter
    theirs = logits(case, [[START], *parts, PROMPT_IDS["Transcribe speech and video to text."]])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@torch.no_grad()
def test_together_they_do_not_depend_on_the_batch(tmp_path):
    case, sources = fused_case(tmp_path, joint=True, lora=False, weights=True)
    convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    loaded = mome.load(tmp_path / "out")
    model, state = loaded.model, case.state
    clips = [clip(12_000, 25), clip(30_000, 39)]  # the sound is shorter than the lips, and longer
    both = model.encode(**loaded.processor(clips)).video
    assert both.lengths.tolist() == [25, 39]
    for row, spoken in zip(both.frames, clips, strict=True):
        frames = len(spoken.mouth)
        alone = model.encode(**loaded.processor([spoken])).video.frames[0]
        torch.testing.assert_close(row[:frames], alone, rtol=0, atol=1e-5)
        # As in AV-HuBERT's own code, missing sound is zeros and sound that is too long is cut.
        sound = heard(spoken.audio)[:, :frames]
        sound = torch.nn.functional.pad(sound, (0, 0, 0, frames - sound.shape[1]))
        lips = torch.from_numpy(loaded.processor.video(spoken.mouth))[None]
        official = adapted(state, "audiovisual_encoder")(lips, None, sound).frames[0]
        torch.testing.assert_close(alone, official, rtol=0, atol=1e-5)
    written = loaded.transcribe(clips[1], "2,2", max_new_tokens=2, num_beams=1)
    assert (written.tokens.fused, written.tokens.audio, written.tokens.video) == (39 // RATE, 0, 0)
    assert written.tokens.prompt == 1 + len(PROMPT_IDS["Transcribe speech and video to text."])
    with pytest.raises(ValueError, match="reads sound and lips together: give both"):
        model.encode(**loaded.processor(clips, audio=False))
    with pytest.raises(MomeError, match="has no visible mouth, and this model was not made for asr"):
        loaded.transcribe(Clip(clips[0].audio, None, 1.0), "2,2")


def test_a_fused_checkpoint_saved_again_is_the_same(tmp_path):
    case, sources = fused_case(tmp_path, joint=True, lora=True, weights=True)
    convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    loaded = mome.load(tmp_path / "out")
    loaded.model.save_pretrained(tmp_path / "again", self_contained=True)
    loaded.processor.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "audio_encoder").exists()
    again, state = mome.load(tmp_path / "again").model.state_dict(), loaded.model.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


@pytest.mark.parametrize("joint", [True, False], ids=["one projector", "two projectors"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.layers.1.fc1.bias", None, r"\(1 difference\): {} is missing"),
        ("encoder.layers.1.fc1.bias", torch.zeros(3), r"\(1 difference\): {} is \(3,\) instead of \(24,\)"),
        ("encoder.layers.1.self_attn.lora_up_Q.weight", torch.zeros(3, 1), r"{} is \(3, 1\) instead of \(16, 1\)"),
        ("encoder.layers.1.self_attn.lora_down_V.weight", torch.zeros(7), r"{} is \(7,\) instead of \(1, 16\)"),
        ("encoder.stray.weight", torch.zeros(7), "{} is unknown"),
    ],
)
def test_its_tensors_are_called_as_in_the_file(tmp_path, joint, key, value, message):
    case, sources = fused_case(tmp_path, joint, lora=True, weights=True)
    name = f"audiovisual_encoder.{key}"
    with pytest.raises(MomeError, match=message.format(name)):
        convert("llama-avsr", published(case, tmp_path, {name: value}), tmp_path / "out", sources)


def test_options_of_a_fused_checkpoint(tmp_path):
    case, sources = fused_case(tmp_path, joint=True, lora=False, weights=True)
    path = published(case, tmp_path)
    with pytest.raises(MomeError, match="has one AV-HuBERT, --video-encoder: leave it out"):
        convert("llama-avsr", path, tmp_path / "out", replace(sources, audio_encoder=sources.video_encoder))
    with pytest.raises(MomeError, match=r"--audio-rates is given, but .* has no audio encoder: leave it out"):
        convert("llama-avsr", path, tmp_path / "out", replace(sources, audio_rates=[2]))
    with pytest.raises(MomeError, match=r"--video-rates 3 does not fit .*, which stacks 2"):
        convert("llama-avsr", path, tmp_path / "out", replace(sources, video_rates=[3]))
