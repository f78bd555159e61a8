"""Names and shapes in the checkpoints of published recognisers, and the names of their tensors in this package.

Source: the state dicts that the code of Llama-AVSR, Llama-MTSK, Omni-AVSR and Llama-SMoP writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mome.config.config import VideoAdapterConfig
from mome.convert.avhubert import PRETRAINING
from mome.convert.fitting import count_modules, read_size
from mome.errors import MomeError
from mome.rates import Task

EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
GATE = "audiovisual_proj.gate.weight"
MODALITIES: dict[str, Task] = {"audiovisual": "avsr", "audio": "asr", "video": "vsr"}
PROMPTS = {f"prompt_{modality}": task for modality, task in MODALITIES.items()}
"""Names of the embedded prompts in Omni-AVSR's checkpoints, with their tasks."""

FUSED = "audiovisual_encoder"
"""First part of the names of an AV-HuBERT that is both encoders of Llama-AVSR, or reads sound and lips together."""

PARTS = {
    "audio_encoder": "audio_encoder.encoder",
    "video_encoder": "video_encoder",
    FUSED: "video_encoder",
    "llm": "language_model",
}
"""First parts of published names, with the modules of this package."""

_AUDIO = {
    "whisper": re.compile(r"audio_encoder\.(conv1|conv2|embed_positions)\..*"),
    "wavlm": re.compile(r"audio_encoder\.feature_projection\..*"),
    "avhubert": re.compile(r"audio_encoder\.feature_extractor_(audio|video)\..*"),
}
_NORMALISED = re.compile(r"(?<=\.pos_conv_embed\.conv\.)weight_([gv])")  # of WavLM, in older versions of PyTorch
_LORA = re.compile(r"(.+)\.lora_(down|up)_([QV])(_shared|\.audio|\.video|\.audiovisual)?\.weight")
_LOCAL_LORA = re.compile(r"(.+)\.([qv])_proj\.lora\.(?:specific\.)?(down|up)(?:\.(weight|avsr|asr|vsr))?")
_LOCAL = ("connector", "language_model")  # first parts of names in this package, not in the published code
_PROJECTOR = re.compile(r"(audio|video)_proj\.(?:(\d{1,3})\.)?(\d\.(?:weight|bias))")
_EXPERT = re.compile(r"audiovisual_proj\.experts\.(\d{1,3})\..+")
_ANY = r"(?:(?:audio|video)_proj\.(?:\d+\.)?|audiovisual_proj\.(?:experts\.\d+\.)?)"  # a projector or an expert
_JOINT = re.compile(r"audiovisual_proj\.\d\.(?:weight|bias)")  # one projector for both


@dataclass(frozen=True)
class Projectors:
    """The projectors of a checkpoint.

    Attributes:
        widths: input width of each projector, by modality; ``None`` if its first weight does not show it.
        shared: modalities with a single projector, whose name has no number.
        hidden: width between a projector's two linear layers.
        norm: whether projectors end with a LayerNorm.
        experts: number of experts behind a router (Llama-SMoP); 0 without a router.
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
        shared: whether there is an update that all tasks share.
        specific: whether each task has an update of its own.
    """

    bottleneck: int
    shared: bool
    specific: bool


def audio_type(state: Mapping[str, Tensor]) -> str | None:
    """The type of the audio encoder, ``whisper``, ``wavlm`` or ``avhubert``; ``None`` for another or no one."""
    return next((kind for kind, names in _AUDIO.items() if any(map(names.fullmatch, state))), None)


def is_fused(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has one AV-HuBERT for sound and lips."""
    return any(key.startswith(f"{FUSED}.") for key in state)


def is_joint(state: Mapping[str, Tensor]) -> bool:
    """Whether that AV-HuBERT reads sound and lips together, before a single projector."""
    return is_fused(state) and any(map(_JOINT.fullmatch, state))


def smop_name(state: Mapping[str, Tensor]) -> str | None:
    """A name that only Llama-SMoP's checkpoints have; ``None`` in other checkpoints."""
    return GATE if GATE in state else next(filter(_EXPERT.fullmatch, state), None)


def unnumbered(state: Mapping[str, Tensor], modality: str) -> bool | None:
    """Whether a modality has a single projector without a number; ``None`` if it has no projector."""
    found = [match[2] is None for match in map(_PROJECTOR.fullmatch, state) if match and match[1] == modality]
    return 2 * sum(found) >= len(found) if found else None


def read_projectors(state: Mapping[str, Tensor], modalities: list[str], source: str) -> Projectors:
    """Read the projectors of a checkpoint with encoders of these modalities.

    Raises:
        MomeError: a modality has no projector, or their inner width is unknown.
    """
    experts, widths, shared = 0, {}, frozenset(modalities)
    if smop_name(state) is not None:
        experts = count_modules(int(match[1]) for match in map(_EXPERT.fullmatch, state) if match)
        experts = experts or read_size(state, (re.escape(GATE), 2, 0)) or 0
        width = read_size(state, (re.escape(GATE), 2, 1), (_ANY + r"0\.weight", 2, 1))
        widths = {name: [width] for name in modalities}
    elif is_joint(state):
        widths = {name: [read_size(state, (r"audiovisual_proj\.0\.weight", 2, 1))] for name in modalities}
    else:
        shared = frozenset(name for name in modalities if unnumbered(state, name))
        for name in modalities:
            if unnumbered(state, name) is None:
                raise MomeError(f"{source} has the {name} encoder but no {name}_proj: it is of another system")
            found = [match for match in map(_PROJECTOR.fullmatch, state) if match and match[1] == name and match[2]]
            projectors = count_modules(int(match[2]) for match in found)
            numbers = [""] if name in shared else [f"{i}." for i in range(projectors)]
            widths[name] = [read_size(state, (re.escape(f"{name}_proj.{i}0.weight"), 2, 1)) for i in numbers]
    hidden = read_size(state, (_ANY + r"0\.weight", 2, 0), (_ANY + r"0\.bias", 1, 0), (_ANY + r"2\.weight", 2, 1))
    if hidden is None:
        raise MomeError(f"{source} does not show how wide its projectors are: their 0.weight, 0.bias and 2.weight")
    norm = any(re.fullmatch(_ANY + r"3\.(weight|bias)", key) for key in state)
    return Projectors(widths, shared, hidden, norm, experts)


def read_lora(state: Mapping[str, Tensor], part: str, source: str) -> Lora | None:
    """Read the low-rank updates of ``part``, such as ``llm``; ``None`` if it has none.

    Raises:
        MomeError: their rank is unknown.
    """
    found = [match for match in map(_LORA.fullmatch, state) if match and match[0].startswith(f"{part}.")]
    if not found:
        return None
    inside = rf"{part}\..+\.lora_"
    rank = read_size(state, (inside + "down_.*", 2, 0), (inside + "up_.*", 2, 1))
    if rank is None:
        raise MomeError(f"{source} does not show the rank of its LoRA: {found[0][0]} is not of 2 dimensions")
    kinds = {match[4] or "_shared" for match in found}
    return Lora(rank, "_shared" in kinds, bool(kinds - {"_shared"}))


def specific_name(state: Mapping[str, Tensor]) -> str | None:
    """The name of a task-specific update; ``None`` if there is none."""
    found = (match for match in map(_LORA.fullmatch, state) if match)
    return next((match[0] for match in found if match[4] not in (None, "_shared")), None)


@dataclass(frozen=True)
class Renamed:
    """A checkpoint's tensors under the names of this package.

    Attributes:
        tensors: by name in this package; task-specific updates are one tensor for each task.
        names: the name of each in the file.
        clashes: messages on names that do not belong in the file, or that mean the same tensor as others.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    clashes: list[str]


def renamed(state: Mapping[str, Tensor], rates: Mapping[str, list[int]]) -> Renamed:
    """Rename a checkpoint's tensors, and leave out embedded prompts and what is for pre-training only.

    A projector without a number is used for all ``rates`` of its modality. An AV-HuBERT that reads sound and lips one
    after the other becomes two encoders, that for the sound with the LoRA in its weights. Unknown names are kept.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    clashes: list[str] = []
    twice = is_fused(state) and not is_joint(state)

    def put(name: str, value: Tensor, key: str) -> None:
        if name in tensors:
            clashes.append(f"{key} stands for the same as {names[name]}")
        tensors[name], names[name] = value, key

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
        elif part in _LOCAL or _LOCAL_LORA.fullmatch(key):
            clashes.append(f"{key} is not a name of the published code")
        elif part in PARTS:
            if part == FUSED and twice:
                put(f"{PARTS['audio_encoder']}.{rest}", _updated(key, state), key)
            rest = _NORMALISED.sub(lambda found: f"parametrizations.weight.original{'gv'.index(found[1])}", rest)
            put(f"{PARTS[part]}.{rest}", value, key)
        elif part == "audiovisual_proj":
            put(f"connector.audiovisual.{rest}", value, key)
        else:
            put(key, value, key)
    return Renamed(tensors, names, clashes)


def _updated(key: str, state: Mapping[str, Tensor]) -> Tensor:
    """A weight of AV-HuBERT with its low-rank update, in float32; the weight itself if it has none that fits it."""
    weight, place = state[key], re.fullmatch(r"(.+)\.([qv])_proj\.weight", key)
    if place is None:
        return weight
    down, up = (state.get(f"{place[1]}.lora_{way}_{place[2].upper()}.weight") for way in ("down", "up"))
    if down is None or up is None or (up.shape[:1] + down.shape[1:], up.shape[1:]) != (weight.shape, down.shape[:1]):
        return weight
    return weight.float() + VideoAdapterConfig.scale * up.float() @ down.float()


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The published name of a tensor of this package, in a file with the names of ``state``."""
    for part, module in PARTS.items():
        if name.startswith(f"{module}."):
            part = FUSED if part.endswith("_encoder") and is_fused(state) else part
            name = f"{part}.{name.removeprefix(f'{module}.')}"
            lora = _LOCAL_LORA.fullmatch(name)
            if lora is None:
                return name
            shared = any(key.startswith(f"{part}.") and "_shared." in key for key in state)
            of_task: dict[str, str] = {task: f".{modality}" for modality, task in MODALITIES.items()}
            which = of_task.get(lora[4], "_shared" if shared else "")
            return f"{lora[1]}.lora_{lora[3]}_{lora[2].upper()}{which}.weight"
    name = re.sub(r"^connector\.(audio|video|audiovisual)\.", r"\1_proj.", name)
    modality = name.partition("_proj.")[0]
    return re.sub(r"_proj\.\d+\.", "_proj.", name) if unnumbered(state, modality) else name


def pretraining_only(key: str) -> bool:
    """Whether a tensor is only for the pre-training of AV-HuBERT."""
    part, _, rest = key.partition(".")
    return part.endswith("_encoder") and rest.split(".")[0] in PRETRAINING
