"""What names and shapes in the published recognisers' checkpoints say, and the names that their tensors have here.

Source: the state dicts of Llama-AVSR, Llama-MTSK, Omni-AVSR and Llama-SMoP, as their published code writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mome.errors import MomeError, listed
from mome.model.convert.avhubert import PRETRAINING
from mome.rates import Task

EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
GATE = "audiovisual_proj.gate.weight"
MODALITIES: dict[str, Task] = {"audiovisual": "avsr", "audio": "asr", "video": "vsr"}
PROMPTS = {f"prompt_{modality}": task for modality, task in MODALITIES.items()}
"""Embedded prompts that Omni-AVSR keeps beside its weights."""

_PARTS = {"audio_encoder": "audio_encoder.encoder", "video_encoder": "video_encoder", "llm": "language_model"}
_LORA = re.compile(r"(.+)\.lora_(down|up)_([QV])(_shared|\.audio|\.video|\.audiovisual)?\.weight")
_OUR_LORA = re.compile(r"(.+)\.([qv])_proj\.lora\.(specific\.)?(down|up)(?:\.weight)?")
_OURS = ("connector", "language_model")  # what names of this package begin with, and the published ones do not
_PROJECTOR = re.compile(r"(audio|video)_proj\.(?:(\d+)\.)?(\d\.(?:weight|bias))")


@dataclass(frozen=True)
class Projectors:
    """A checkpoint's way from encoder tokens to the language model's.

    Attributes:
        widths: input width of each projector, by modality.
        shared: modalities whose one projector has no number.
        hidden: inner width.
        norm: whether a LayerNorm ends them.
        experts: how many there are behind one router (Llama-SMoP); 0 without a router.
    """

    widths: Mapping[str, list[int]]
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


def sizes(state: Mapping[str, Any], key: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that sizes are read from.

    Raises:
        MomeError: it has another number of dimensions.
    """
    shape = tuple(getattr(state[key], "shape", ()))
    if len(shape) != dimensions or 0 in shape:
        raise MomeError(f"{key} is {shape}, not of {dimensions} dimensions: the checkpoint is of another system")
    return shape


def read_projectors(state: Mapping[str, Any], modalities: list[str]) -> Projectors:
    """The projectors of a checkpoint whose encoders are of these modalities.

    Raises:
        MomeError: a modality has none.
    """
    if GATE in state:
        experts, width = sizes(state, GATE, 2)
        first = "audiovisual_proj.experts.0."
        widths, shared = {name: [width] for name in modalities}, frozenset(modalities)
    else:
        experts, widths, shared, first = 0, {}, frozenset(), ""
        for name in modalities:
            numbered = {int(m[2]) for m in map(_PROJECTOR.fullmatch, state) if m and m[1] == name and m[2]}
            alone = f"{name}_proj.0.weight" in state
            prefixes = [f"{name}_proj."] if alone else [f"{name}_proj.{i}." for i in sorted(numbered)]
            if not prefixes:
                raise MomeError(f"the checkpoint has the {name} encoder but no {name}_proj: it is of another system")
            missing = [f"{prefix}0.weight" for prefix in prefixes if f"{prefix}0.weight" not in state]
            if missing:
                raise MomeError(f"the checkpoint lacks {listed(missing)}")
            widths[name] = [sizes(state, f"{prefix}0.weight", 2)[1] for prefix in prefixes]
            shared |= {name} if alone else set()
            first = prefixes[0]
    if f"{first}0.weight" not in state:
        raise MomeError(f"the checkpoint lacks {first}0.weight")
    return Projectors(widths, shared, sizes(state, f"{first}0.weight", 2)[0], f"{first}3.weight" in state, experts)


def read_lora(state: Mapping[str, Any], part: str) -> Lora | None:
    """The low-rank updates of ``part``, ``llm`` or ``video_encoder``; ``None`` where it has none."""
    found = {key: match for key, match in zip(state, map(_LORA.fullmatch, state), strict=True) if match}
    found = {key: match for key, match in found.items() if key.startswith(f"{part}.")}
    if not found:
        return None
    downs = [key for key, match in found.items() if match[2] == "down"]
    if not downs:
        raise MomeError(f"the checkpoint has LoRA weights of {part} but none is lora_down: it is not whole")
    kinds = {match[4] or "_shared" for match in found.values()}
    return Lora(sizes(state, downs[0], 2)[0], "_shared" in kinds, bool(kinds - {"_shared"}))


@dataclass(frozen=True)
class Renamed:
    """A checkpoint's tensors under our names.

    Attributes:
        tensors: by our name.
        names: what the file calls each; of tensors that were stacked, with a star for what tells them apart.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]


def renamed(state: Mapping[str, Tensor], tasks: list[Task], rates: Mapping[str, list[int]]) -> Renamed:
    """The tensors under our names, without those that were for pre-training only and the embedded prompts.

    Updates that are specific to tasks are stacked in the order of ``tasks``; a projector without a number is there
    for each of its modality's ``rates``. A name that is not known stays as it is.

    Raises:
        MomeError: two tensors of the file would become one, or one has a name that only this package gives.
    """
    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    clashes: list[str] = []

    def put(name: str, value: Tensor, key: str) -> None:
        if name in ours:
            clashes.append(f"{key} stands for the same as {names[name]}")
        ours[name], names[name] = value, key

    specific: dict[str, dict[Task, Tensor]] = {}
    stars: dict[str, str] = {}
    for key, value in state.items():
        if key in PROMPTS or pretraining_only(key):
            continue
        part, _, rest = key.partition(".")
        lora, projector = _LORA.fullmatch(key), _PROJECTOR.fullmatch(key)
        if projector is not None:
            name, number, inside = projector.groups()
            for i in [number] if number else range(len(rates.get(name, ()))):
                put(f"connector.{name}.{i}.{inside}", value, key)
        elif lora is not None and part in _PARTS:
            module, direction, side, group = lora.groups()
            module = module.replace(part, _PARTS[part], 1) + f".{side.lower()}_proj.lora"
            if group is None or group == "_shared":
                put(f"{module}.{direction}.weight", value, key)
            else:
                name = f"{module}.specific.{direction}"
                specific.setdefault(name, {})[MODALITIES[group.removeprefix(".")]] = value
                stars[name] = f"{lora[1]}.lora_{direction}_{side}.*.weight"
        elif part in _OURS or _OUR_LORA.fullmatch(key):
            clashes.append(f"{key} is no name of the published code")
        elif part in _PARTS:
            put(f"{_PARTS[part]}.{rest}", value, key)
        elif part == "audiovisual_proj":
            put(f"connector.audiovisual.{rest}", value, key)
        else:
            put(key, value, key)
    for name, of_tasks in specific.items():
        put(name, _stacked(stars[name], of_tasks, tasks), stars[name])
    if clashes:
        raise MomeError(f"the checkpoint is of no system known here: {listed(clashes, 20)}")
    return Renamed(ours, names)


def published_name(name: str, state: Mapping[str, Any]) -> str:
    """What the published code would call the tensor with this name of ours, in a file with the names of ``state``."""
    for theirs, ours in _PARTS.items():
        if name.startswith(f"{ours}."):
            name = f"{theirs}.{name.removeprefix(f'{ours}.')}"
            lora = _OUR_LORA.fullmatch(name)
            if lora is None:
                return name
            shared = any(key.startswith(f"{theirs}.") and "_shared." in key for key in state)
            which = ".*" if lora[3] else "_shared" if shared else ""
            return f"{lora[1]}.lora_{lora[4]}_{lora[2].upper()}{which}.weight"
    name = re.sub(r"^connector\.(audio|video|audiovisual)\.", r"\1_proj.", name)
    side = name.partition("_proj.")[0]
    return re.sub(r"_proj\.\d+\.", "_proj.", name) if f"{side}_proj.0.weight" in state else name


def pretraining_only(key: str) -> bool:
    """Whether a tensor was needed only to pre-train AV-HuBERT."""
    part, _, rest = key.partition(".")
    return part == "video_encoder" and rest.split(".")[0] in PRETRAINING


def _stacked(name: str, of_tasks: Mapping[Task, Tensor], tasks: list[Task]) -> Tensor:
    """``(tasks, …)`` in the order of ``tasks``; ``name`` is for messages."""
    missing, spare = [task for task in tasks if task not in of_tasks], [task for task in of_tasks if task not in tasks]
    kinds = {(tuple(value.shape), str(value.dtype)) for value in of_tasks.values()}
    if missing:
        raise MomeError(f"the checkpoint has {name} but not for {listed(missing)}")
    if spare:
        raise MomeError(
            f"the checkpoint has {name} for {listed(spare)}, too, where its system is for {listed(tasks)} alone: "
            "it is of another system, perhaps omni-avsr"
        )
    if len(kinds) > 1:
        raise MomeError(f"the checkpoint's {name} differ: {', '.join(f'{a} {b}' for a, b in sorted(kinds))}")
    return torch.stack([of_tasks[task] for task in tasks])
