"""Convert checkpoints of Llama-AVSR, Llama-MTSK, Omni-AVSR and Llama-SMoP to model folders.

Such a file is a flat state dict with all weights, the frozen ones included. The trained weights are written to
``model.safetensors``. A backbone becomes a reference if its own weights are on this machine and equal the checkpoint's;
otherwise it is stored in a sub-folder. Tensors stay in the mapped file until they are written, one at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from mome.checkpoints.backbones import load_tokenizer
from mome.checkpoints.checkpoint import STATISTICS
from mome.checkpoints.folder import INSIDE
from mome.config import MomeConfig
from mome.convert.avhubert import NOTICE
from mome.convert.avsr_backbones import (
    add_tokens,
    audio_config,
    avhubert_config,
    check_prompts,
    misshaped_prompts,
    named_config,
    refer,
    save_part,
    whisper_extractor,
)
from mome.convert.avsr_file import TITLES, System, choose_rates, state_dict
from mome.convert.avsr_names import (
    EMBEDDING,
    FUSED,
    HEAD,
    PARTS,
    PROMPTS,
    Lora,
    audio_type,
    is_fused,
    is_joint,
    pretraining_only,
    published_name,
    read_lora,
    read_projectors,
    renamed,
)
from mome.convert.fitting import checked, read_size
from mome.convert.unpickle import read_checkpoint
from mome.convert.writing import Account, Unused, check_free, fill_card, new_folder, save_weights
from mome.encoders.avhubert import AVHubertConfig
from mome.errors import MomeError
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor
from mome.rates import TASKS, Task

LORA_SCALE = 0.125  # alpha / rank in all published systems: 8 / 64 and 4 / 32
TOP_K = 2  # of the published Llama-SMoP
BEAMS = 15
_VOCABULARY = "|".join(map(re.escape, (EMBEDDING, HEAD)))
_SPECIFIC = (".lora.specific.down", ".lora.specific.up")  # tensors with one update for each task

LICENSE = (
    "that of the checkpoint and of its backbones; AV-HuBERT's weights are for non-commercial research only, "
    "Llama's come under Meta's community licence"
)

SOURCES: dict[System, str] = {
    "llama-avsr": "https://github.com/umbertocappellazzo/Llama-AVSR",
    "llama-mtsk": "https://github.com/umbertocappellazzo/Omni-AVSR",
    "omni-avsr": "https://github.com/umbertocappellazzo/Omni-AVSR",
    "llama-smop": "https://github.com/umbertocappellazzo/Dr-SHAP-AV",
}
"""Repositories of the published code."""

CARD = """---
license: other
tags: [audio-visual-speech-recognition, lip-reading, mome]
---
# {title}

Converted from `{file}`, a checkpoint of the published code, by `mome convert {kind}`.

{account}

## Use

```bash
mome transcribe clip.mp4 --model this-folder
```

## Source

- File: `{file}`, SHA-256 `{digest}`
- Code of the system: <{source}>

## Licence

This folder holds weights of other people's models or refers to them, and each keeps its own terms: see the licence of
the checkpoint, of the language model and of the encoders. AV-HuBERT's allows non-commercial research only. Read them
before you use this folder or pass it on.
"""
"""README.md of a recogniser, for :func:`mome.convert.writing.fill_card` with ``kind`` and ``source``."""


def check_scale(scale: float | None) -> None:
    """Raise :class:`MomeError` if a LoRA cannot have this factor."""
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise MomeError(f"--lora-scale {scale} is not possible: give a number above 0, such as 0.125")


@dataclass(frozen=True)
class Sources:
    """What must be known about a checkpoint and is not in it.

    Attributes:
        language_model: hub id or folder of its language model and tokenizer.
        audio_encoder, video_encoder: hub ids or folders of its encoders; ``None``: sizes are read from the weights, and
            heads are as wide as in the published encoders.
        audio_rates, video_rates: in the order of the projectors; ``None``: the published ones.
        lora_scale: factor of the language model's low-rank updates; ``None``: the published one.
        top_k: number of experts that Llama-SMoP's router chooses for a token; ``None``: the published one.
    """

    language_model: str
    audio_encoder: str | None = None
    video_encoder: str | None = None
    audio_rates: list[int] | None = None
    video_rates: list[int] | None = None
    lora_scale: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_scale(self.lora_scale)


def convert(system: System, checkpoint: Path, out: Path, sources: Sources) -> Account:
    """Convert a published recogniser to a new folder that :func:`mome.load` reads.

    Args:
        system: of the checkpoint.
        checkpoint: the file.
        out: the new folder.
        sources: backbones and options of the checkpoint.

    Returns:
        An account of the checkpoint's tensors.

    Raises:
        MomeError: the file is missing, unsafe or of another system, backbones or options do not fit it, or ``out``
            exists or cannot be written; nothing is written then.
    """
    check_free(out)
    state, notes = state_dict(read_checkpoint(checkpoint), system, str(checkpoint))
    config, assumed = read_config(system, state, sources, str(checkpoint))
    notes += assumed
    tokenizer = load_tokenizer(sources.language_model)
    rows = read_size(state, (_VOCABULARY, 2, 0))
    if rows is None:
        raise MomeError(f"{checkpoint} does not show its vocabulary: {EMBEDDING} is missing or not of 2 dimensions")
    published = config.text_config.vocab_size
    add_tokens(config, tokenizer, rows, sources.language_model, str(checkpoint))
    model, weights = fit(config, state, str(checkpoint))
    check_prompts(state, config, str(checkpoint))
    tied = config.text_config.tie_word_embeddings
    if tied and HEAD in state and not torch.equal(state[HEAD], state[EMBEDDING]):
        raise MomeError(f"{checkpoint} has a head of its own, which {sources.language_model} ties to its embedding")
    parts = _backbones(weights, tied)
    padded = published != config.text_config.vocab_size
    for kind, part in parts.items():
        notes += refer(config, kind, part, _named(sources, kind, state), padded and kind == "language_model")
    account = account_of(system, config, state, notes)
    with new_folder(out) as folder:
        _write(model, weights, parts, tokenizer, folder)
        (folder / "README.md").write_text(card(system, checkpoint, account), encoding="utf-8")
    return account


def read_config(
    system: System, state: Mapping[str, Tensor], sources: Sources, source: str
) -> tuple[MomeConfig, list[str]]:
    """Read the recogniser's configuration, except for its vocabulary and token ids.

    Returns:
        The configuration, and lines on assumptions.

    Raises:
        MomeError: an option does not fit the checkpoint.
    """
    notes: list[str] = []
    configs: dict[str, Any] = {"audio": None, "video": None}
    fused, joint = is_fused(state), is_joint(state)
    if fused and sources.audio_encoder is not None:
        raise MomeError(f"--audio-encoder is given, but {source} has one AV-HuBERT, --video-encoder: leave it out")
    for side, kind in (("audio", "avhubert" if fused else audio_type(state)), ("video", "avhubert")):
        named, what = _named(sources, f"{side}_encoder", state), f"{side} encoder"
        part = FUSED if fused else f"{side}_encoder"
        if not any(key.startswith(f"{part}.") for key in state) or (joint and side == "audio"):
            for option in (f"{side}_encoder", f"{side}_rates"):
                if getattr(sources, option) is not None:
                    name = option.replace("_", "-")
                    raise MomeError(f"--{name} is given, but {source} has no {what}: leave it out")
        elif named is not None:
            configs[side] = named_config(f"{side}_encoder", named, kind)
        else:
            configs[side] = avhubert_config(part, state, source) if kind == "avhubert" else audio_config(state, source)
            notes.append(f"the {what}'s heads are assumed to be as wide as in all published ones")
    modalities = [side for side, config in configs.items() if config is not None]
    if not modalities:
        raise MomeError(f"{source} has neither audio_encoder nor video_encoder: it is of another system")
    projectors = read_projectors(state, modalities, source)
    widths = {side: configs[side].hidden_size for side in modalities}
    given = {"audio": sources.audio_rates, "video": sources.video_rates}
    chosen = choose_rates(system, projectors, widths, given, source)
    notes += chosen.notes
    connector, adapter = _connector(system, projectors.experts, sources.top_k), read_lora(state, "llm", source)
    if connector is not None and sources.top_k is None:
        notes.append(f"the file does not show how many experts a token has, so assumed: {TOP_K} (--top-k)")
    if adapter is not None and sources.lora_scale is None:
        notes.append(f"the file does not show the factor of its LoRA, so assumed: {LORA_SCALE} (--lora-scale)")
    text = named_config("language_model", sources.language_model)
    video_lora, tasks = read_lora(state, FUSED if fused else "video_encoder", source), list(TASKS)
    if system != "omni-avsr":
        tasks = ["avsr"] if len(modalities) > 1 or joint else ["asr" if modalities == ["audio"] else "vsr"]
    config = MomeConfig(
        audio_config=configs["audio"],
        video_config=configs["video"],
        text_config=text,
        audio_rates=chosen.rates.get("video" if joint else "audio", []),
        video_rates=chosen.rates.get("video", []),
        compression=chosen.compression,
        projector_hidden=projectors.hidden,
        projector_norm=projectors.norm,
        connector={"type": "joint"} if joint else connector,
        adapter=_adapter(adapter, LORA_SCALE if sources.lora_scale is None else sources.lora_scale),
        video_adapter=None if video_lora is None else {"bottleneck": video_lora.bottleneck},
        video_statistics=configs["video"] is not None,
        tasks=tasks,
        generation={"num_beams": BEAMS},
    )
    for part in (config.audio_config, config.video_config, config.text_config):
        if part is not None:
            part.name_or_path = ""
    for part in (config.audio_config, config.video_config):
        if isinstance(part, AVHubertConfig):
            part.notice = NOTICE
    return config, notes


def _named(sources: Sources, kind: str, state: Mapping[str, Tensor]) -> str | None:
    """The hub id or folder of a backbone; one AV-HuBERT may be both encoders."""
    name: str | None = getattr(sources, "video_encoder" if kind == "audio_encoder" and is_fused(state) else kind)
    return name


def _connector(system: System, experts: int, top_k: int | None) -> dict[str, Any] | None:
    if system != "llama-smop":
        if top_k is not None:
            raise MomeError(f"--top-k is for llama-smop, not for {system}: leave it out")
        return None
    if top_k is not None and not 0 < top_k <= experts:
        raise MomeError(f"--top-k {top_k} is not possible: the checkpoint has {experts} experts")
    return {"type": "mixture", "experts": experts, "top_k": min(TOP_K, experts) if top_k is None else top_k}


def _adapter(lora: Lora | None, scale: float) -> dict[str, Any] | None:
    if lora is None:
        return None
    options: dict[str, Any] = {"type": "lora", "bottleneck": lora.bottleneck, "scale": scale}
    return options | ({"shared": lora.shared, "specific": "tasks"} if lora.specific else {})


def fit(
    config: MomeConfig, state: Mapping[str, Tensor], source: str
) -> tuple[MomeForSpeechRecognition, dict[str, Tensor]]:
    """Build the model on the meta device, and name the checkpoint's tensors as the model does.

    Raises:
        MomeError: names, shapes or types differ from the model's.
    """
    with torch.device("meta"):
        model = MomeForSpeechRecognition(config)
    found = renamed(state, {"audio": config.audio_rates, "video": config.video_rates})
    weights, names = dict(found.tensors), found.names
    if config.text_config.tie_word_embeddings and EMBEDDING in state:
        weights.setdefault("language_model.lm_head.weight", state[EMBEDDING])
    more = list(found.clashes)
    if len(config.tasks) > 1:  # Omni-AVSR
        more += misshaped_prompts(state, config.text_config.hidden_size)
    expected: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        of_tasks = zip(config.tasks, value, strict=True) if key.endswith(_SPECIFIC) else ()
        expected |= {f"{key}.{task}": update for task, update in of_tasks} or {key: value}
    what = f"{source} does not fit the model that it and its backbones describe"
    fitting = checked(weights, expected, what, lambda key: names.get(key) or published_name(key, state), more)
    return model, _stacked(fitting, config.tasks)


def _stacked(weights: Mapping[str, Tensor], tasks: Sequence[Task]) -> dict[str, Tensor]:
    """Stack the updates of all tasks to one tensor ``(tasks, …)``; other tensors stay as they are."""
    ends = tuple(f"{end}.{tasks[0]}" for end in _SPECIFIC)
    stacked: dict[str, Tensor] = {}
    for key, value in weights.items():
        name, _, task = key.rpartition(".")
        if key.endswith(ends):
            stacked[name] = torch.stack([weights[f"{name}.{other}"] for other in tasks])
        elif not (task in tasks and name.endswith(_SPECIFIC)):
            stacked[key] = value
    return stacked


def _backbones(weights: Mapping[str, Tensor], tied: bool) -> dict[str, dict[str, Tensor]]:
    """The weights of each backbone, without LoRA and without a head that is tied to the embedding."""
    parts: dict[str, dict[str, Tensor]] = {}
    for module in PARTS.values():
        kind, prefix = module.partition(".")[0], f"{module}."
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        part = {key: value for key, value in inside.items() if ".lora." not in key}
        if kind == "language_model" and tied:
            part.pop("lm_head.weight", None)
        if part:
            parts[kind] = part
    return parts


def _write(
    model: MomeForSpeechRecognition,
    weights: Mapping[str, Tensor],
    parts: Mapping[str, Mapping[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    config = model.config
    for kind, part in parts.items():
        if getattr(config, kind) == INSIDE + kind:
            module = getattr(model, kind)
            backbone = module.encoder if kind == "audio_encoder" else module
            save_part(backbone, part, folder / kind, tokenizer if kind == "language_model" else None)
    save_weights(model.trained_state_dict(dict(weights)), folder)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    audio = config.audio_config
    extractor: WhisperFeatureExtractor | Wav2Vec2FeatureExtractor | None = None
    if audio is not None and audio.model_type == "whisper":
        extractor = whisper_extractor(audio)
    elif audio is not None:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=False)  # the processor normalises
    MomeProcessor.for_config(config, tokenizer, extractor).save_pretrained(folder)


def card(system: System, checkpoint: Path, account: Account) -> str:
    """The README.md of a recogniser that was converted from ``checkpoint``."""
    return fill_card(CARD, checkpoint, account, kind=system, source=SOURCES[system])


def account_of(system: System, config: MomeConfig, state: Mapping[str, Tensor], notes: list[str]) -> Account:
    """The account of a checkpoint's tensors in a folder with this configuration."""
    kept = dict(state)
    unused: list[Unused] = []

    def leave_out(name: str, keys: list[str], reason: str) -> None:
        if keys:
            unused.append(Unused(name, len(keys), reason))
            for key in keys:
                del kept[key]

    leave_out("prompt_*", [key for key in kept if key in PROMPTS], "the embeddings of the prompts' tokens")
    for part in ("audio_encoder", "video_encoder", FUSED):
        keys = [key for key in kept if pretraining_only(key) and key.startswith(part)]
        leave_out(f"{part}.*", keys, "for pre-training only")
    if config.text_config.tie_word_embeddings:
        leave_out(HEAD, [key for key in kept if key == HEAD], "the same as the embedding")
    for prefix, module in PARTS.items():
        kinds = [module.partition(".")[0]] + ["audio_encoder"] * (prefix == FUSED and not is_joint(state))
        references = [getattr(config, kind) or INSIDE for kind in kinds]
        if not any(reference.startswith(INSIDE) for reference in references):
            inside = [key for key in kept if key.startswith(f"{prefix}.") and ".lora_" not in key]
            frozen = [key for key in inside if prefix == "audio_encoder" or not key.endswith(STATISTICS)]
            leave_out(f"{prefix}.*", frozen, f"in {references[0]}")
    rates = " and ".join(
        f"{side} rates {', '.join(map(str, getattr(config, f'{side}_rates')))}"
        for side in ("audio", "video")
        if getattr(config, f"{side}_rates")
    )
    text = config.text_config
    model = (
        f"{TITLES[system]}: {', '.join(config.tasks)} at {rates}, language model of {text.num_hidden_layers} layers of "
        f"width {text.hidden_size}"
    )
    return Account.of(model, kept.values(), unused, notes, LICENSE)
