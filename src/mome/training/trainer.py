"""Transformers' Trainer with the Matryoshka step and word error rate as validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mome.adapters import RouterStatistics
from mome.encoders import Features
from mome.model import MomeForSpeechRecognition
from mome.model.folder import read_weights
from mome.model.model import EncodedClips
from mome.model.objective import SpeechOutput
from mome.rates import Rates
from mome.training.dataset import SpeechDataset
from mome.training.sampler import FrameBudgetSampler

Validate = Callable[[MomeForSpeechRecognition], dict[str, float]]


class MatryoshkaTrainer(Trainer):
    """Every step goes through all rates (or a sample of them) with the same clips.

    Args:
        model: the recogniser.
        args: Transformers' training arguments.
        dataset: training examples.
        sampler: which of them make a batch.
        schedule: the rates of each step.
        task_weights: factors on the tasks' losses.
        validate: word error rates of the model by name of the rates.
    """

    model: MomeForSpeechRecognition

    def __init__(
        self,
        model: MomeForSpeechRecognition,
        args: TrainingArguments,
        dataset: SpeechDataset,
        sampler: FrameBudgetSampler,
        schedule: Callable[[int], list[Rates]],
        task_weights: Mapping[str, float] | None = None,
        validate: Validate | None = None,
        **kwargs: Any,
    ):
        # Only the presence of an eval_dataset counts: evaluate() is ours.
        evaluated = dataset if validate is not None else None
        super().__init__(
            model,
            args,
            train_dataset=dataset,
            eval_dataset=evaluated,
            data_collator=dataset.collate,
            **kwargs,
        )
        self.dataset = dataset
        self.sampler = sampler
        self.schedule = schedule
        self.task_weights = dict(task_weights or {})
        self.validate = validate
        self.listed = {str(one) for one in model.grid.rates()}
        self.step_logs: dict[str, list[Tensor]] = {}

    def get_train_dataloader(self) -> DataLoader:
        """Batches within the frame budget, shared out among the processes."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the rates of the transcript's loss, and the router's balance loss."""
        rates = self.schedule(self.state.global_step)
        batch = dict(inputs)
        sides = {
            name: Features(batch.pop(f"{name}_tokens"), batch.pop(f"{name}_lengths"))
            for name in ("audio", "video")
            if f"{name}_tokens" in batch
        }
        if sides:
            batch["encoded"] = EncodedClips(sides.get("audio"), sides.get("video"))
        output: SpeechOutput = model(**batch, matryoshka=rates, task_weights=self.task_weights)
        self._note(output)
        return (output.loss, output) if return_outputs else output.loss

    def _note(self, output: SpeechOutput) -> None:
        # Rates that are drawn freely (MQT) would give hundreds of curves: they are summed up by task.
        transcript = output.transcript_losses or {}
        names = {name: name if name in self.listed else Rates.parse(name).task for name in transcript}
        values = {f"loss/{names[name]}": loss for name, loss in transcript.items()}
        values |= {f"connector/{name}_loss": loss for name, loss in (output.connector_losses or {}).items()}
        if output.balance_loss is not None:
            values["router/balance_loss"] = output.balance_loss
            values |= routing_summary(list((output.routing or {}).values()))
        values |= connector_routing_summary(output.connector_routing or {})
        for name, value in values.items():
            self.step_logs.setdefault(name, []).append(value.detach())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means since the last log of the losses by rate and of the router's statistics."""
        if "loss" in logs:
            means = {name: float(torch.stack(values).mean()) for name, values in self.step_logs.items()}
            logs = {**logs, **means}
            self.step_logs = {}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Word error rates on the validation split."""
        assert self.validate is not None
        training = self.model.training
        metrics = {f"eval_{name}": value for name, value in self.validate(self.model.eval()).items()}
        self.model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_trained(str(self.state.best_model_checkpoint))

    def _load_trained(self, folder: str) -> None:
        """Checkpoints hold the trained parts only, which Transformers' own loading would complain about."""
        self.model.load_trained(read_weights(Path(folder)), folder)


def routing_summary(routing: Sequence[RouterStatistics]) -> dict[str, Tensor]:
    """What shows a collapsing router, over the layers.

    Returns:
        ``router/entropy``: mean entropy in nats; ``router/min_entropy``: that of the layer where it is lowest;
        ``router/load_0`` and so on: mean share of the assignments that each expert gets; ``router/max_load``: that of
        the busiest expert of any layer, at most 1 / k; ``router/unused``: mean share of experts that got none;
        ``router/max_unused``: that of the layer where they are most.
    """
    if not routing:
        return {}
    load = torch.stack([entry.load for entry in routing])
    entropy = torch.stack([entry.entropy for entry in routing])
    unused = (load == 0).float().mean(dim=-1)
    return {
        "router/entropy": entropy.mean(),
        "router/min_entropy": entropy.min(),
        "router/max_load": load.max(),
        "router/unused": unused.mean(),
        "router/max_unused": unused.max(),
        **{f"router/load_{expert}": share for expert, share in enumerate(load.mean(dim=0))},
    }


def connector_routing_summary(routing: Mapping[str, RouterStatistics]) -> dict[str, Tensor]:
    """What shows a collapsing router of a mixture of projectors.

    Returns:
        For every router its mean entropy in nats, ``connector/audio/entropy``, and the share of the assignments that
        each expert gets, ``connector/audio/load_0`` and so on.
    """
    values = {f"connector/{name}/entropy": entry.entropy for name, entry in routing.items()}
    for name, entry in routing.items():
        values |= {f"connector/{name}/load_{expert}": share for expert, share in enumerate(entry.load)}
    return values
