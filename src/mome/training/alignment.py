"""The alignment of a recipe's connector: what it is aligned to, and how well it does on the validation split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mome.checkpoints.folder import model_folder, read_config, read_weights
from mome.checkpoints.settings import blaming
from mome.config import MomeConfig
from mome.config.generation import CTC_WEIGHT
from mome.connectors import Connector
from mome.connectors.projectors import RateProjectors
from mome.data.datasets import SpeechDataset
from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.model.alignment import Alignment
from mome.model.ctc import CtcHead
from mome.rates import Rates
from mome.text.transcript import normalize
from mome.text.wer import WordErrors, word_errors
from mome.training.build import outline
from mome.training.recipe import AlignRecipe, Recipe
from mome.training.sharing import error_rates, own_batches
from mome.training.trainer import ALIGNMENT


def alignment_recipe(recipe: Recipe) -> Recipe:
    """The alignment as a training run of its own, which writes to the folder ``align`` in the recipe's output."""
    align = recipe.align
    optim = replace(
        recipe.optim,
        start=None,
        task_weights={},
        rate_weights={},
        rates_per_step=None,
        one_rate_per_task=False,
        top_k=None,
        epochs=align.epochs or recipe.optim.epochs,
        steps=align.steps,
        learning_rate=align.learning_rate,
        connector_learning_rate=None,
        warmup_steps=align.warmup_steps,
        average_last=None,
    )
    data = replace(recipe.data, max_frames=align.max_frames or recipe.data.max_frames)
    model, output = replace(recipe.model, self_contained=False), f"{recipe.output}/align"
    return replace(recipe, model=model, data=data, align=AlignRecipe(), optim=optim, output=output)


def alignment(model: MomeForSpeechRecognition, dataset: SpeechDataset) -> Alignment:
    """A new alignment, alone, to the tokens of all transcripts of the training clips, start and end token left out."""
    processor = dataset.processor
    labels = processor.labels([normalize(row.text) for row in dataset.rows])
    special = torch.tensor(
        [-100, processor.tokenizer.eos_token_id, *[processor.tokenizer.bos_token_id] * processor.bos_taught]
    )
    tokens = labels[~torch.isin(labels, special)]
    return Alignment(tokens, model.config.text_config.hidden_size).to(model.device)


def spread(connector: Connector, logs: Sequence[Mapping[str, Any]]) -> None:
    """Let the projectors of rates too coarse for CTC start from those of the coarsest rate that was aligned.

    That concerns projectors of averaged frames, one for each rate: other connectors share their weights among the
    rates, or have weights of another shape for each.
    """
    for modality in ("audio", "video"):
        projectors = getattr(connector, modality, None)
        if not isinstance(projectors, RateProjectors) or projectors.method != "average":
            continue
        aligned = set(_aligned(logs, modality)) & set(projectors.rates)
        for rate in set(projectors.rates) - aligned:
            if aligned:
                projectors.projector(rate).load_state_dict(projectors.projector(max(aligned)).state_dict())


def _aligned(logs: Sequence[Mapping[str, Any]], modality: str) -> list[int]:
    """The rates of a modality that an alignment was trained at, without those too coarse for CTC.

    A rate is too coarse if more than half of the clips were left out.
    """
    shares: dict[int, list[float]] = {}
    for name, share in (pair for entry in logs for pair in entry.items() if pair[0].startswith("left_out/")):
        rate = getattr(Rates.parse(name.removeprefix("left_out/")), modality)
        if rate is not None:
            shares.setdefault(rate, []).append(share)
    return [rate for rate, each in shares.items() if sum(each) / len(each) <= 0.5]


def take_connector(model: MomeForSpeechRecognition, name: str) -> None:
    """Load the connector of another model, of a projector for each rate only those of this model's rates.

    Raises:
        MomeError: there is no such model, or its connector is damaged, of another kind or size, or lacks a rate.
    """
    _load_connector(model.connector, model_folder(name), f"align.start={name}")


def keep_head(model: MomeForSpeechRecognition, folder: Path, weight: float) -> None:
    """Give a model an alignment's connector as its CTC head, at the finest rates that it was aligned at.

    Args:
        model: its configuration gets the head's options and its share in decoding.
        folder: what the alignment wrote, the folder ``align`` of a run; the model has the same encoders and vocabulary.
        weight: the share, from 0 to 1.

    Raises:
        MomeError: the folder is not an alignment's, is damaged, or does not fit the model.
    """
    config, what = read_config(folder), f"the alignment in {folder}"
    if not (folder / ALIGNMENT).is_file():
        raise MomeError(f"{folder} has no {ALIGNMENT}: name the folder align of a run")
    kept = MomeConfig.from_dict(model.config.to_dict())
    with blaming(what):
        state = load_file(folder / ALIGNMENT)
        logs = json.loads((folder / "history.json").read_text())
        kept.ctc = {
            "tokens": len(state["tokens"]),
            "audio_rate": min(_aligned(logs, "audio"), default=None),
            "video_rate": min(_aligned(logs, "video"), default=None),
            "compression": config.compression,
            "projector_hidden": config.projector_hidden,
            "projector_norm": config.projector_norm,
            "connector": config.connector,
        }
        head = CtcHead(kept)
        head.alignment.load_state_dict(state)
    _load_connector(head.connector, folder, what)
    model.ctc, model.config.ctc = head.to(model.device, model.dtype), kept.ctc
    model.config.generation = {**(model.config.generation or {}), CTC_WEIGHT: weight}


def _load_connector(own: Connector, folder: Path, what: str) -> None:
    """Load the weights of another model's connector; ``what`` names it in messages."""
    prefix = "connector."
    weights = {key: value for key, value in read_weights(folder).items() if key.startswith(prefix)}
    taken = outline(read_config(folder)).connector
    with blaming(f"the connector of {what}", "does not fit", "name a model with the same connector"):
        taken.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()}, assign=True)
        for modality in ("audio", "video"):
            wanted, other = (getattr(connector, modality, None) for connector in (own, taken))
            if isinstance(wanted, RateProjectors) and isinstance(other, RateProjectors):
                if lacking := set(wanted.rates) - set(other.rates):
                    raise MomeError(
                        f"{what} has no projector for {modality} rate {min(lacking)}: name a model with one"
                    )
                setattr(taken, modality, nn.ModuleList(other.projector(rate) for rate in wanted.rates))
        own.load_state_dict(taken.state_dict())


class AlignmentValidation:
    """Word error rate of the validation clips by the alignment's best path, without the language model."""

    def __init__(self, rates: list[Rates], batch: int, dataset: SpeechDataset, rows: Sequence[ManifestRow]):
        self.rates, self.batch = rates, batch
        self.processor, self.clips, self.rows = dataset.processor, dataset.clips, rows

    @torch.no_grad()
    def __call__(self, model: MomeForSpeechRecognition) -> dict[str, float]:
        """Decode the clips, each in one of the processes; returns for example ``{"wer/4,-": 0.45}``."""
        assert model.alignment is not None
        errors = [WordErrors() for _ in self.rates]
        audio, video = (any(getattr(rate, side) for rate in self.rates) for side in ("audio", "video"))
        for rows in own_batches(self.rows, self.batch):
            inputs = self.processor([self.clips.load(row) for row in rows], audio=audio, video=video).to(model.device)
            encoded = model.encode(**inputs)
            for number, rate in enumerate(self.rates):
                connected = model.connect(encoded, [rate] * len(rows))
                ids = model.alignment.decode(connected, model.get_input_embeddings().weight)
                texts = [self.processor.tokenizer.decode(each) for each in ids]
                errors[number] += sum(word_errors([row.text for row in rows], texts), WordErrors())
        return error_rates(self.rates, errors)
