"""Export of a LoRA in PEFT's file format."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import nn

from mome.adapters.files import save_tensors
from mome.adapters.merge import lora_modules
from mome.errors import MomeError
from mome.files import atomic_write

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def export_peft(model: nn.Module, folder: str | os.PathLike[str], group: int | None = None) -> None:
    """Write the LoRA of one group as an adapter that ``peft.PeftModel.from_pretrained(base, folder)`` loads.

    PEFT multiplies an update by alpha / rank, so alpha is ``scale`` times the rank. A shared and a specific update
    become one of twice the rank. Each file is written completely or not at all, the configuration last. PEFT itself is
    not needed.

    Args:
        model: a causal language model with a LoRA.
        folder: where to write; it is made if missing, and existing files are replaced.
        group: the group of a LoRA with a specific part; None for one without.

    Raises:
        MomeError: the model has no LoRA, LoRAs of several ranks, factors or dropouts, or experts, or the group
            is missing, superfluous or out of range. Nothing is written then.
    """
    modules = lora_modules(model)
    state = {}
    kinds = set()
    for name, _, lora in modules:
        down, up = lora.matrices(group)
        kinds.add((len(down), lora.scale, lora.dropout))
        state[f"base_model.model.{name}.lora_A.weight"] = down.contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = up.contiguous()
    if len(kinds) > 1:
        raise MomeError(f"LoRAs of different ranks, factors or dropouts {sorted(kinds)} are not one PEFT adapter")
    rank, scale, dropout = kinds.pop()
    alpha = float(scale * rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": _targets(model, [name for name, _, _ in modules]),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / CONFIG) as text:  # replaced last, so that both are there or neither is
        text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_tensors(state, folder / WEIGHTS, {"format": "pt"})


def _targets(model: nn.Module, names: list[str]) -> list[str]:
    """The last parts of ``names`` if no other module (as in a vision tower) has such a last part, else ``names``."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    alike = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return ends if alike == set(names) else names
