"""Training that goes on from a trained model, on other clips or with other options of the training."""

from __future__ import annotations

import torch

from mome.checkpoints.folder import model_folder, read_config, read_weights
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition


@torch.no_grad()
def take_trained(model: MomeForSpeechRecognition, name: str) -> None:
    """Copy the trained parts of another model, its connector and adapters, into this one's; not a CTC head.

    Args:
        model: a model with the same rates, and trained parts of the same kind and size.
        name: a model folder, a hub id or the name of a bundled model.

    Raises:
        MomeError: there is no such model, it has other rates, or a part that is trained here is missing there or has
            another size.
    """
    folder = model_folder(name)
    other = read_config(folder)
    for option in ("audio_rates", "video_rates"):
        own, theirs = getattr(model.config, option), getattr(other, option)
        if own != theirs:
            raise MomeError(f"optim.start={name} has the rates {theirs}, not {own}: give model.{option}={theirs}")
    weights = read_weights(folder)
    for key, value in model.named_parameters():
        if not value.requires_grad:
            continue
        found = weights.get(key)
        if found is None or found.shape != value.shape:
            has = "lacks it" if found is None else f"has it as {tuple(found.shape)}"
            raise MomeError(
                f"optim.start={name} does not fit: {key} is trained here with the size {tuple(value.shape)}, and that "
                f"model {has}: give the recipe that model's connector and adapter, or name another model"
            )
        value.copy_(found)
