"""What names and shapes in the published recognisers' checkpoints say, and the names that their tensors have here.

Source: the state dicts of Llama-AVSR, Llama-MTSK, Omni-AVSR and Llama-SMoP, as their published code writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mome.convert.avhubert import PRETRAINING
from mome.convert.fitting import count, told
from mome.errors import MomeError
from mome.rates import Task

EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
GATE = "audiovisual_proj.gate.weight"
MODALITIES: dict[str, Task] = {"audiovisual": "avsr", "audio": "asr", "video": "vsr"}
PROMPTS = {f"prompt_{modality}": task for modality, task in MODALITIES.items()}
"""Embedded prompts that Omni-AVSR keeps beside its weights."""

PARTS = {"audio_encoder": "audio_encoder.encoder", "video_encoder": "video_encoder", "llm": "language_model"}
_AUDIO = {
    "whisper": re.compile(r"audio_encoder\.(conv1|conv2|embed_positions)\..*"),
    "wavlm": re.compile(r"audio_encoder\.feature_projection\..*"),
}
_NORMALISED = re.compile(r"(?<=\.pos_conv_embed\.conv\.)weight_([gv])")  # WavLM's, as older versions of PyTorch name it
_LORA = re.compile(r"(.+)\.lora_(down|up)_([QV])(_shared|\.audio|\.video|\.audiovisual)?\.weight")
_OUR_LORA = re.compile(r"(.+)\.([qv])_proj\.lora\.(?:specific\.)?(down|up)(?:\.(weight|avsr|asr|vsr))?")
_OURS = ("connector", "language_model")  # what names of this package begin with, and the published ones do not
_PROJECTOR = re.compile(r"(audio|video)_proj\.(?:(\d{1,3})\.)?(\d\.(?:weight|bias))")
_EXPERT = re.compile(r"audiovisual_proj\.experts\.(\d{1,3})\..+")
_ANY = r"(?:(?:audio|video)_proj\.(?:\d+\.)?|audiovisual_proj\.experts\.\d+\.)"  # of projectors and experts


@dataclass(frozen=True)
class Projectors:
    """A checkpoint's way from encoder tokens to the language model's.

    Attributes:
        widths: input width of each projector, by modality; ``None`` where its first weight does not tell.
        shared: modalities whose one projector has no number.
        hidden: inner width.
        norm: whether a LayerNorm ends them.
        experts: how many there are behind one router (Llama-SMoP); 0 without a router.
    """

    widths: Mapping[str, list[int | None]]
    shared: frozenset[str]
    hidden: int
    norm: bool
    experts: int


@dataclass(frozen=True)
class Lora:
    """The low-rank updates of a language model or encoder.

    Attributes:
        bottleneck: their rank.
        shared: whether all tasks have one in common.
        specific: whether each task has one of its own.
    """

    bottleneck: int
    shared: bool
    specific: bool


def audio_type(state: Mapping[str, Any]) -> str | None:
    """The type of the audio encoder's configuration; ``None`` where it is of no known kind, or there is none."""
    return next((kind for kind, names in _AUDIO.items() if any(map(names.fullmatch, state))), None)


def smop_name(state: Mapping[str, Any]) -> str | None:
    """A name that only Llama-SMoP's checkpoints have, if this one has any."""
    return GATE if GATE in state else next(filter(_EXPERT.fullmatch, state), None)


def unnumbered(state: Mapping[str, Any], modality: str) -> bool | None:
    """Whether a modality has one projector without a number; ``None`` where it has none at all."""
    found = [match[2] is None for match in map(_PROJECTOR.fullmatch, state) if match and match[1] == modality]
    return 2 * sum(found) >= len(found) if found else None


def read_projectors(state: Mapping[str, Any], modalities: list[str], source: str) -> Projectors:
    """The projectors of a checkpoint whose encoders are of these modalities.

    Raises:
        MomeError: a modality has none.
    """
    experts, widths, shared = 0, {}, frozenset(modalities)
    if smop_name(state) is not None:
        experts = count(int(match[1]) for match in map(_EXPERT.fullmatch, state) if match)
        experts = experts or told(state, (re.escape(GATE), 2, 0)) or 0
        width = told(state, (re.escape(GATE), 2, 1), (_ANY + r"0\.weight", 2, 1))
        widths = {name: [width] for name in modalities}
    else:
        shared = frozenset(name for name in modalities if unnumbered(state, name))
        for name in modalities:
            if unnumbered(state, name) is None:
                raise MomeError(f"{source} has the {name} encoder but no {name}_proj: it is of another system")
            found = [match for match in map(_PROJECTOR.fullmatch, state) if match and match[1] == name and match[2]]
            numbers = [""] if name in shared else [f"{i}." for i in range(count(int(match[2]) for match in found))]
            widths[name] = [told(state, (re.escape(f"{name}_proj.{i}0.weight"), 2, 1)) for i in numbers]
    hidden = told(state, (_ANY + r"0\.weight", 2, 0), (_ANY + r"0\.bias", 1, 0), (_ANY + r"2\.weight", 2, 1))
    if hidden is None:
        raise MomeError(f"{source} does not tell how wide its projectors are: their 0.weight, 0.bias and 2.weight")
    norm = any(re.fullmatch(_ANY + r"3\.(weight|bias)", key) for key in state)
    return Projectors(widths, shared, hidden, norm, experts)


def read_lora(state: Mapping[str, Any], part: str, source: str) -> Lora | None:
    """The low-rank updates of ``part``, ``llm`` or ``video_encoder``; ``None`` where it has none.

    Raises:
        MomeError: none of them tells the rank.
    """
    found = [match for match in map(_LORA.fullmatch, state) if match and match[0].startswith(f"{part}.")]
    if not found:
        return None
    inside = rf"{part}\..+\.lora_"
    rank = told(state, (inside + "down_.*", 2, 0), (inside + "up_.*", 2, 1))
    if rank is None:
        raise MomeError(f"{source} does not tell the rank of its LoRA: {found[0][0]} is not of 2 dimensions")
    kinds = {match[4] or "_shared" for match in found}
    return Lora(rank, "_shared" in kinds, bool(kinds - {"_shared"}))


def specific_name(state: Mapping[str, Any]) -> str | None:
    """A name of an update that is specific to a task, if there is any."""
    found = (match for match in map(_LORA.fullmatch, state) if match)
    return next((match[0] for match in found if match[4] not in (None, "_shared")), None)


@dataclass(frozen=True)
class Renamed:
    """A checkpoint's tensors under our names.

    Attributes:
        tensors: by our name; of an update that is specific to tasks, each task's by itself.
        names: what the file calls each.
        clashes: what is wrong with names that stand for nothing here, or for what another does.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    clashes: list[str]


def renamed(state: Mapping[str, Tensor], rates: Mapping[str, list[int]]) -> Renamed:
    """The tensors under our names, without those that were for pre-training only and the embedded prompts.

    A projector without a number is there for each of its modality's ``rates``. A name that is not known stays as it is.
    """
    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    clashes: list[str] = []

    def put(name: str, value: Tensor, key: str) -> None:
        if name in ours:
            clashes.append(f"{key} stands for the same as {names[name]}")
        ours[name], names[name] = value, key

    for key, value in state.items():
        if key in PROMPTS or pretraining_only(key):
            continue
        part, _, rest = key.partition(".")
        lora, projector = _LORA.fullmatch(key), _PROJECTOR.fullmatch(key)
        if projector is not None and rates.get(projector[1]):
            name, number, inside = projector.groups()
            for i in [number] if number else range(len(rates[name])):
                put(f"connector.{name}.{i}.{inside}", value, key)
        elif lora is not None and part in PARTS:
            module, direction, side, group = lora.groups()
            module = module.replace(part, PARTS[part], 1) + f".{side.lower()}_proj.lora"
            if group is None or group == "_shared":
                put(f"{module}.{direction}.weight", value, key)
            else:
                put(f"{module}.specific.{direction}.{MODALITIES[group.removeprefix('.')]}", value, key)
        elif part in _OURS or _OUR_LORA.fullmatch(key):
            clashes.append(f"{key} is no name of the published code")
        elif part in PARTS:
            rest = _NORMALISED.sub(lambda found: f"parametrizations.weight.original{'gv'.index(found[1])}", rest)
            put(f"{PARTS[part]}.{rest}", value, key)
        elif part == "audiovisual_proj":
            put(f"connector.audiovisual.{rest}", value, key)
        else:
            put(key, value, key)
    return Renamed(ours, names, clashes)


def published_name(name: str, state: Mapping[str, Any]) -> str:
    """What the published code would call the tensor with this name of ours, in a file with the names of ``state``."""
    for theirs, ours in PARTS.items():
        if name.startswith(f"{ours}."):
            name = f"{theirs}.{name.removeprefix(f'{ours}.')}"
            lora = _OUR_LORA.fullmatch(name)
            if lora is None:
                return name
            shared = any(key.startswith(f"{theirs}.") and "_shared." in key for key in state)
            of_task: dict[str, str] = {task: f".{modality}" for modality, task in MODALITIES.items()}
            which = of_task.get(lora[4], "_shared" if shared else "")
            return f"{lora[1]}.lora_{lora[3]}_{lora[2].upper()}{which}.weight"
    name = re.sub(r"^connector\.(audio|video|audiovisual)\.", r"\1_proj.", name)
    modality = name.partition("_proj.")[0]
    return re.sub(r"_proj\.\d+\.", "_proj.", name) if unnumbered(state, modality) else name


def pretraining_only(key: str) -> bool:
    """Whether a tensor was needed only to pre-train AV-HuBERT."""
    part, _, rest = key.partition(".")
    return part == "video_encoder" and rest.split(".")[0] in PRETRAINING
