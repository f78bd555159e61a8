"""Adapters in folders and on the hub, in the file convention of PEFT.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors``. A LoRA without groups is one of PEFT, for both
packages to read. What PEFT does not have (experts, a LoRA with groups) is of the type :data:`TYPE`, which PEFT refuses
as unknown, with the options under ``options``. Nothing in a folder is executed or unpickled.
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mome.adapters.attach import Attached, attach, attached
from mome.adapters.base import AdapterConfig, adapter_config_from_dict, adapter_config_to_dict
from mome.adapters.files import save_tensors
from mome.adapters.inventory import adapter_modules, adapter_parameters, whole
from mome.adapters.layers import decoder_layers
from mome.adapters.lora import Lora, LoraAdapterConfig
from mome.errors import MomeError, in_one_line, shortened
from mome.files import atomic_write, disk_errors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPE = "MOME"
Model = TypeVar("Model", bound=nn.Module)

_PREFIX = "base_model.model."  # of PEFT's keys
_LORA = {"lora_A": "down", "lora_B": "up"}
_LARGEST = 2**20  # bytes of a configuration
# Keys of a LoRA's configuration that are read here, or that do not change what is computed. The layers are those that
# the weights name.
_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules")
_HARMLESS = (
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("init_lora_weights", "layers_pattern", "exclude_modules", "megatron_core", "qalora_group_size", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "runtime_config", "ensure_weight_tying"),
)


def save_adapter(
    model: nn.Module, folder: str | os.PathLike[str], name: str | None = None, *, group: int | None = None
) -> None:
    """Write an adapter of ``model`` to a folder that :func:`load_adapter` reads, and PEFT if it is a plain LoRA.

    PEFT multiplies an update by alpha / rank, so alpha is ``scale`` times the rank. Each file is written completely or
    not at all, the configuration last. If there are several processes, the first one writes; with FSDP2 all must call
    this. PEFT itself is not needed.

    Args:
        model: a causal language model with adapters.
        folder: where to write; it is made if missing, and existing files are replaced.
        name: of the adapter; by default the one that is at work.
        group: write only the update of this group of a LoRA, as a plain LoRA for PEFT; a shared and a specific update
            become one of twice the rank.

    Raises:
        MomeError: there is no such adapter, several are at work and none is named, the adapter has no such group, or
            the files cannot be written. Nothing is written then.
    """
    entry = attached(model, name)
    prefix = _prefix(model, decoder_layers(model))
    modules = {f"{prefix}.{key}": module for key, module in entry.modules.items()}
    config = entry.config
    settings: dict[str, Any] = {
        "peft_type": TYPE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
    }
    state: dict[str, Tensor] = {}
    if group is not None or (isinstance(config, LoraAdapterConfig) and not config.groups):
        rank = 0
        for key, lora in modules.items():
            if not isinstance(lora, Lora) or not isinstance(config, LoraAdapterConfig):
                raise MomeError(f"a {config.kind} adapter makes no low-rank update of a weight: leave group out")
            down, up = lora.matrices(group)
            target, rank = key.removesuffix(".lora"), len(down)
            state |= {f"{_PREFIX}{target}.lora_A.weight": whole(down), f"{_PREFIX}{target}.lora_B.weight": whole(up)}
        assert isinstance(config, LoraAdapterConfig)
        alpha = float(config.scale * rank)
        settings |= {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
            "lora_dropout": config.dropout,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": _targets(model, [key.removesuffix(".lora") for key in modules]),
        }
    else:
        settings["options"] = adapter_config_to_dict(config)
        for key, module in modules.items():
            state |= {f"{_PREFIX}{key}.{part}": whole(value) for part, value in module.named_parameters()}
    if not _is_first():
        return
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / CONFIG) as text:  # replaced last, so that both are there or neither is
        text.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_tensors(state, folder / WEIGHTS, {"format": "pt"})


def load_adapter(
    model: Model,
    source: str | os.PathLike[str],
    name: str | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Model:
    """Attach the adapter in a folder or on the hub, see :func:`mome.adapters.attach`; it is at work then.

    Args:
        model: the causal language model that the adapter was trained on.
        source: a folder that :func:`save_adapter` or, for a LoRA, PEFT has written; or ``owner/name`` on the hub.
        name: the adapter's name in this model; by default its kind.
        revision, token: of the hub.

    Returns:
        ``model`` itself.

    Raises:
        MomeError: there is no such folder, its files are damaged, describe something that this package does not have,
            or do not fit the model. The model is unchanged then.
    """
    folder = _found(source, revision, token)
    settings, state = _read(folder)
    config, state = _understood(folder, settings, state)
    layers = decoder_layers(model)
    prefix = _prefix(model, layers)
    _compare(folder, {f"{prefix}.{key}": shape for key, shape in _shapes(layers, config).items()}, state)
    attach(model, config, name)
    for key, parameter in _parameters(model, attached(model, name or config.kind)).items():
        parameter.data.copy_(state[key])
    return model


def read_adapter(model: nn.Module, folder: Path) -> None:
    """Put the values in a folder into the adapter at work in ``model``, which must be the same.

    Raises:
        MomeError: as :func:`load_adapter`, or several adapters are at work. The model is unchanged then.
    """
    _, state = _understood(folder, *_read(folder))
    own = _parameters(model, attached(model))
    _compare(folder, {key: parameter.shape for key, parameter in own.items()}, state)
    for key, parameter in own.items():
        parameter.data.copy_(state[key])


def push_adapter(
    model: nn.Module, repo: str, name: str | None = None, *, group: int | None = None, **options: Any
) -> str:
    """Upload what :func:`save_adapter` writes to the hub, and return the URL of the commit.

    If there are several processes, the first one uploads, and the others return ``""``; with FSDP2 all must call this.

    Args:
        model, name, group: as for :func:`save_adapter`.
        repo: ``owner/name``, or ``name`` for the user's own account; created if it does not exist.
        options: ``token``, ``private``, ``revision``, ``commit_message``, ``create_pr``, as for
            :func:`mome.hub.upload`.

    Raises:
        MomeError: as :func:`save_adapter`, or the hub refuses or cannot be reached.
    """
    from mome.hub import upload  # slow to import, and few need it

    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder, name, group=group)
        if not _is_first():
            return ""
        return upload(Path(folder), repo, (CONFIG, WEIGHTS), what="an adapter", **options)


def _is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())


def _prefix(model: nn.Module, layers: nn.ModuleList) -> str:
    return next(str(key) for key, module in model.named_modules() if module is layers)


def _parameters(model: nn.Module, entry: Attached) -> dict[str, nn.Parameter]:
    """The parameters of an adapter by their names in ``model``."""
    prefix = _prefix(model, decoder_layers(model))
    modules = entry.modules.items()
    return {f"{prefix}.{key}.{part}": value for key, module in modules for part, value in module.named_parameters()}


def _compare(folder: Path, expected: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Raise :class:`MomeError` unless the values in a folder are those of an adapter."""
    for what, keys in (
        ("lacks", expected.keys() - state.keys()),
        ("has an unexpected", state.keys() - expected.keys()),
    ):
        if keys:
            raise _unfit(folder, f"it {what} {shortened(min(keys), 120)} ({len(keys)} such)")
    for key, shape in expected.items():
        if state[key].shape != shape:
            raise _unfit(folder, f"{key} has shape {tuple(state[key].shape)}, and here {tuple(shape)}")


def _unfit(folder: Path, why: str) -> MomeError:
    return MomeError(f"the adapter in {folder} does not fit this model: {why}; attach it to the model it was made for")


def _found(source: str | os.PathLike[str], revision: str | None, token: str | bool | None) -> Path:
    folder, name = Path(source), str(source)
    if os.path.isdir(folder):
        return folder
    if os.path.exists(folder) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise MomeError(f"no adapter at {shortened(name, 200)}: give its folder, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    from mome.hub import HUB_ERRORS, why_not_read

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=[CONFIG, WEIGHTS]))
    except HUB_ERRORS as error:
        raise MomeError(f"the adapter {name} is no folder here, and on the hub: {why_not_read(error)}") from error


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The files of a folder; raises :class:`MomeError` naming the one that is missing or damaged."""
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise MomeError(f"{file} is not a file: the adapter is incomplete, copy or download it again")
    try:
        if (folder / CONFIG).stat().st_size > _LARGEST:
            raise ValueError("more than 1 MB")
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("no settings by name")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder / CONFIG, error) from error
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for key, value in state.items():
            if not value.is_floating_point() or not torch.isfinite(value).all():
                raise ValueError(f"not finite numbers in {shortened(key)}")
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise _damaged(folder / WEIGHTS, error) from error
    return settings, state


def _damaged(file: Path, error: BaseException) -> MomeError:
    return MomeError(f"{file} is damaged ({shortened(in_one_line(error), 120)}): copy or download it again")


def _understood(
    folder: Path, settings: dict[str, Any], state: dict[str, Tensor]
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The options of an adapter, and its values by the names of this package."""
    kind = settings.get("peft_type")
    if kind not in (TYPE, "LORA"):
        raise MomeError(
            f"{folder / CONFIG}: the type {shortened(kind)} is not LORA or {TYPE}: load it with PEFT itself"
        )
    renamed = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    try:
        if kind == TYPE:
            options = settings.get("options")
            return adapter_config_from_dict(options if isinstance(options, dict) else {}), renamed
        return _lora(settings, renamed)
    except MomeError as error:
        raise MomeError(f"{folder / CONFIG}: {error}") from error
    except (TypeError, OverflowError) as error:  # an option that is a list, say
        raise _damaged(folder / CONFIG, error) from error


def _lora(settings: dict[str, Any], state: dict[str, Tensor]) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """A LoRA of PEFT."""
    for key, value in settings.items():
        if key not in (*_READ, *_HARMLESS) and value not in (None, False, "none", [], {}):
            raise MomeError(f"{shortened(key)} = {shortened(value)} is not supported here: load it with PEFT itself")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    numbers = (rank, alpha)
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers) or not rank:
        raise MomeError(f"r = {shortened(rank)} and lora_alpha = {shortened(alpha)} are not possible: give numbers")
    assert isinstance(rank, int | float) and isinstance(alpha, int | float)  # noqa: PT018
    values, targets = {}, set()
    for key, value in state.items():
        target, _, rest = key.rpartition(".lora_")
        part = _LORA.get(f"lora_{rest.removesuffix('.weight')}")
        if part is None or not target or not rest.endswith(".weight"):
            raise MomeError(
                f"the weights have {shortened(key, 120)}, which no plain LoRA has: load it with PEFT itself"
            )
        targets.add(target.rpartition(".")[2])
        values[f"{target}.lora.{part}.weight"] = value
    options = {
        "type": LoraAdapterConfig.kind,
        "bottleneck": rank,
        "scale": alpha / (math.sqrt(abs(rank)) if settings.get("use_rslora") else rank),
        "targets": sorted(targets),
        "dropout": settings.get("lora_dropout", 0.0),
    }
    return adapter_config_from_dict(options), values


def _shapes(layers: nn.ModuleList, config: AdapterConfig) -> dict[str, torch.Size]:
    """Names and shapes of an adapter's parameters, without memory for them: its configuration may ask for anything."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device="meta"), requires_grad=False)
        for value in layers.parameters()
    }
    memo |= {id(value): torch.empty(value.shape, dtype=value.dtype, device="meta") for value in layers.buffers()}
    outline = copy.deepcopy(layers, memo)
    for name, _ in list(adapter_modules(outline)):
        parent, _, kind = name.rpartition(".")
        delattr(outline.get_submodule(parent), kind)
    config.attach(outline)
    return {name: value.shape for name, value in adapter_parameters(outline)}


def _targets(model: nn.Module, names: list[str]) -> list[str]:
    """The last parts of ``names`` if no other module (as in a vision tower) has such a last part, else ``names``."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    alike = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return ends if alike == set(names) else names
