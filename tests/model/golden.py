"""Golden cases as ours: the configuration that a case describes, its weights under our names, its inputs.

The originals were run without padding masks and trimmed Whisper to the longest clip, so all frames of that length count
here for every clip. Everything about a case is read from its configuration and from the shapes of its weights.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, WhisperConfig

from mome.adapters import LoraAdapterConfig, attach_lora
from mome.config import DEFAULT_PROMPTS, MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.model import MomeForSpeechRecognition
from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates
from tests.conftest import Golden

MODALITIES = {"audiovisual": "avsr", "audio": "asr", "video": "vsr"}
PROMPTED = ("asr", "vsr", "avsr")  # the order of a case's prompts
VIDEO_LORA_SCALE = 2  # fixed in the original's code
UNUSED = re.compile(r"^(video_encoder\.(mask_emb|label_embs_concat|final_proj\.)|prompt_(audio|video|audiovisual)$)")
NAMES = (
    (r"^audio_encoder\.", "audio_encoder.encoder."),
    (r"^(audio|video|audiovisual)_proj\.", r"connector.\1."),
    (r"^llm\.", "language_model."),
    (r"\.lora_(down|up)_([QV])(_shared)?\.weight$", lambda m: f".{m[2].lower()}_proj.lora.{m[1]}.weight"),
)
SINGLE = re.compile(r"^(audio|video)_proj\.(\d\.(?:weight|bias))$")  # one projector, whatever the rate
SPECIFIC = re.compile(r"^llm\.(.*)\.lora_(down|up)_([QV])\.(audio|video|audiovisual)\.weight$")


def close(actual: Tensor, official: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, official, atol=atol, rtol=0)


def is_tied(config: dict) -> bool:
    return config.get("tie", config["llm"].get("tie", False))


def text_config(config: dict, added: bool = True) -> PreTrainedConfig:
    """The language model's configuration, tied or not, with the tokens that were added or before they were."""
    llm = config["llm"]
    own = {"model_type": "llama"} | {k: v for k, v in llm.items() if k not in ("added_tokens", "final_vocab", "tie")}
    if added:
        own["vocab_size"] = llm.get("final_vocab", llm["vocab_size"])
        own["pad_token_id"] = llm.get("added_tokens", config).get("<pad>", config.get("pad_token_id"))
    return AutoConfig.for_model(**own, tie_word_embeddings=is_tied(config))


def avhubert_config(state: dict[str, Tensor], prefix: str, heads: int) -> AVHubertConfig:
    """The sizes of the AV-HuBERT whose weights have ``prefix``; only ``heads`` does not show in them."""
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    width = len(weights["encoder.layer_norm.weight"])
    kernels = weights["encoder.pos_conv.0.weight_v"]
    return AVHubertConfig(
        hidden_size=width,
        num_hidden_layers=sum(key.endswith("fc1.weight") for key in weights),
        num_attention_heads=heads,
        intermediate_size=len(weights["encoder.layers.0.fc1.weight"]),
        resnet_width=len(weights["feature_extractor_video.resnet.frontend3D.0.weight"]),
        conv_pos=kernels.shape[2],
        conv_pos_groups=width // kernels.shape[1],
        audio_feature_size=weights["feature_extractor_audio.proj.weight"].shape[1],
    )


def has(state: dict[str, Tensor], pattern: str) -> bool:
    return any(re.search(pattern, key) for key in state)


def listed_rates(config: dict, modality: str) -> list[int]:
    """The rates of a modality, in the order of its projectors."""
    return list(config.get(f"rates_{modality}") or [config[f"rate_{modality}"]])


def has_norm(state: dict[str, Tensor]) -> bool:
    """Whether a LayerNorm ends the projectors."""
    return has(state, r"_proj\.(experts\.)?(\d+\.)?3\.weight$")


def prompt_ids(config: dict) -> dict[str, list[int]]:
    """Token ids of each task's prompt, by the published text or else by the order of the case's own."""
    given, own = config["prompt_ids"], dict(zip(PROMPTED, config.get("prompts", ()), strict=False))
    texts = {task: text if text in given else own.get(task) for task, text in DEFAULT_PROMPTS.items()}
    return {task: given[text] for task, text in texts.items() if text in given}


def mome_config(golden: Golden, **options: Any) -> MomeConfig:
    """What the case describes; ``options`` say what is particular to its family."""
    state, config = golden.state, golden.config
    added, lora, adapter = config["llm"]["added_tokens"], config.get("lora"), None
    has_audio, has_video = has(state, r"^audio_encoder\."), has(state, r"^video_encoder\.")
    if lora:
        bottleneck = round(config["llm"]["hidden_size"] / lora["RANK"])
        adapter = {"type": "lora", "bottleneck": bottleneck, "scale": lora["ALPHA"] / lora["RANK"]}
        if config.get("task_specific"):
            adapter |= {"specific": "tasks", "shared": config["shared"]}
    return MomeConfig(
        audio_config=WhisperConfig(**config["whisper"]) if has_audio else None,
        video_config=avhubert_config(state, "video_encoder.", config["avhubert"]["heads"]) if has_video else None,
        text_config=text_config(config),
        audio_rates=listed_rates(config, "audio") if has_audio else (),
        video_rates=listed_rates(config, "video") if has_video else (),
        compression="stack" if config.get("compression") == "stack" else "average",
        projector_hidden=config["projector_intermediate"],
        projector_norm=has_norm(state),
        adapter=adapter,
        prompt_ids=prompt_ids(config),
        start_ids=[start] if (start := config["llm"].get("bos_token_id")) is not None else [],
        audio_markers=[added["<audio>"], added["</audio>"]],
        video_markers=[added["<video>"], added["</video>"]],
        **options,
    )


def renamed(key: str) -> str:
    for official, actual in NAMES:
        key = re.sub(official, actual, key)
    return key


def weights(state: dict[str, Tensor], config: MomeConfig) -> dict[str, Tensor]:
    """The official weights under our names.

    Those specific to a task are stacked in the order of the tasks, and those of a modality's only projector are there
    for each of its rates.
    """
    actual, specific = {}, {}
    for key, value in state.items():
        match, single = SPECIFIC.match(key), SINGLE.match(key)
        if single is not None:
            side, name = single.groups()
            actual |= {f"connector.{side}.{i}.{name}": value for i in range(len(getattr(config, f"{side}_rates")))}
        elif match is not None:
            layer, part, side, modality = match.groups()
            name = f"language_model.{layer}.{side.lower()}_proj.lora.specific.{part}"
            specific.setdefault(name, {})[MODALITIES[modality]] = value
        elif not UNUSED.match(key):
            actual[renamed(key)] = value
    return actual | {name: torch.stack([each[task] for task in config.tasks]) for name, each in specific.items()}


def recogniser(golden: Golden, **options: Any) -> MomeForSpeechRecognition:
    """The whole model with the official weights, every one of them in its place."""
    config = mome_config(golden, **options)
    model = MomeForSpeechRecognition(config)
    down = golden.state.get("video_encoder.encoder.layers.0.self_attn.lora_down_Q.weight")
    if down is not None:
        attach_lora(model.video_encoder.encoder.layers, LoraAdapterConfig(len(down), scale=VIDEO_LORA_SCALE))
    model.load_state_dict(weights(golden.state, config), strict=True)
    return model


def kept_frames(lengths: Tensor) -> int:
    """Whisper tokens that the original keeps of clips of so many samples, by its own arithmetic in float32."""
    return max(int(lengths.max() / 16000 * 50), 25)


def batch(inputs: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Raw inputs, of training or with the prefix ``t.`` of inference on the first clip, all frames counted."""
    given = {}
    if f"{prefix}audio" in inputs:
        mel = inputs.get(f"{prefix}whisper_input_features", inputs["whisper_input_features"])
        mel = mel[: len(inputs[f"{prefix}audio"])]
        mask = torch.arange(mel.shape[-1]) < 2 * kept_frames(inputs[f"{prefix}lengths"])
        given |= {"input_features": mel, "input_features_mask": mask.expand(len(mel), -1)}
    if f"{prefix}video" in inputs:
        given["pixel_values_videos"] = inputs[f"{prefix}video"].float()[:, :, 0]
    return given


def labels_of(golden: Golden) -> Tensor:
    """Transcripts with their end token and without the start token, right-padded with -100."""
    official = next(value for key, value in golden.outputs.items() if key.startswith("labels"))
    # The first one, which the original keeps for the start token, predicts nothing.
    rows = [row[row != IGNORED_LABEL] for row in official[:, 1:]]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)


def rates_of(golden: Golden, name: str) -> Rates:
    """Rates by the end of an output's name: ``.v2_a4``, ``.audio.a4_v2``, ``.rate4``, or nothing where there is one."""
    parts = name.split(".")
    modality = parts[1] if len(parts) > 1 and parts[1] in MODALITIES else golden.config["modality"]
    rates = {}
    for side in ("audio", "video"):
        match = re.search(rf"(?<![a-z]){side[0]}(\d+)", name)
        if match is None and modality == side:
            match = re.search(r"(\d+)", name)
        if modality in (side, "audiovisual"):
            rates[side] = int(match[1]) if match else listed_rates(golden.config, side)[0]
    return Rates(rates.get("audio"), rates.get("video"))


def predicting(their_logits: Tensor, their_labels: Tensor, length: int) -> Tensor:
    """Their logits at the positions that predict the transcripts, right-padded with zeros."""
    rows = []
    for logits, labels in zip(their_logits[:, :-1], their_labels[:, 1:], strict=True):
        row = logits[labels != IGNORED_LABEL]
        rows.append(torch.nn.functional.pad(row, (0, 0, 0, length - len(row))))
    return torch.stack(rows)
