"""Transformers' Trainer with the Matryoshka step and word error rate as validation."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mome.adapters import RouterStatistics
from mome.checkpoints.folder import WEIGHTS, read_weights
from mome.data.datasets import SpeechDataset
from mome.data.sampling import FrameBudgetSampler
from mome.errors import MomeError, listed, shortened
from mome.features import Features
from mome.files import disk_errors, write_text
from mome.model import MomeForSpeechRecognition
from mome.model.model import EncodedClips
from mome.model.objective import SpeechOutput
from mome.rates import Rates
from mome.training.run_folder import RunFolder, damaged, save_processor

Validate = Callable[[MomeForSpeechRecognition], dict[str, float]]


class MatryoshkaTrainer(Trainer):
    """Every step goes through all rates (or a sample of them) with the same clips.

    A loss, a gradient or an update that is not finite ends the training with a :class:`MomeError` at once, before
    anything of it is saved.

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
    ):
        # Only the presence of an eval_dataset counts: evaluate() is ours.
        evaluated = dataset if validate is not None else None
        super().__init__(
            model,
            args,
            train_dataset=dataset,
            eval_dataset=evaluated,
            data_collator=dataset.collate,
        )
        self.dataset = dataset
        self.sampler = sampler
        self.schedule = schedule
        self.task_weights = dict(task_weights or {})
        self.validate = validate
        self.listed = {str(rates) for rates in model.rate_set.rates()}
        self.folder = RunFolder(Path(str(args.output_dir)))
        self.step_logs: dict[str, list[Tensor]] = {}
        self.step_clips: list[Tensor] = []  # of the batches since the last update
        self.add_callback(_Callbacks(self))

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches within the frame budget, shared out among the processes."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        prepared: DataLoader[dict[str, Any]] = self.accelerator.prepare(loader)
        return prepared

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
        if "clips" in batch:
            self.step_clips.append(batch.pop("clips"))
        sides = {
            name: Features(batch.pop(f"{name}_frames"), batch.pop(f"{name}_lengths"))
            for name in ("audio", "video")
            if f"{name}_frames" in batch
        }
        if sides:
            batch["encoded"] = EncodedClips(sides.get("audio"), sides.get("video"))
        output: SpeechOutput = model(**batch, matryoshka=rates, task_weights=self.task_weights)
        assert output.loss is not None
        self._refuse_unless_finite("loss", output.loss)
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
            if self.step_logs:  # of the same names on every process: all go through the same rates
                own = torch.stack([torch.stack(values).float().mean() for values in self.step_logs.values()])
                means = self.accelerator.reduce(own, "mean").tolist()
                logs = {**logs, **dict(zip(self.step_logs, means, strict=True))}
            self.step_logs = {}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Word error rates on the validation split."""
        assert self.validate is not None
        training = self.model.training
        metrics = {f"eval_{name}": value for name, value in self.validate(self.model.train(False)).items()}
        self.model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _refuse_unless_finite(self, what: str, value: Tensor) -> None:
        """Raise :class:`MomeError` naming the step and its clips where a scalar is infinite or no number."""
        if torch.isfinite(value):
            return
        rows = [int(index) for indices in self.step_clips for index in indices]
        clips = f", with the clips {listed([self.dataset.rows[row].id for row in rows], 20)}" if rows else ""
        last = self.folder.last()
        kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is {last}"
        step = self.state.global_step + 1
        raise MomeError(
            f"training stopped at step {step}: the {what} is {float(value.detach())}{clips}: lower "
            f"optim.learning_rate, or clip gradients by optim.clip_norm; {kept}"
        )

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = cast(Any, super())._get_grad_norm(model, grad_norm)  # which has no annotations
        # The optimiser squares what clipping leaves: a weight whose square is infinite would never move again.
        power = 1 if self.args.max_grad_norm > 0 else 2
        self._refuse_unless_finite("gradient's norm", torch.as_tensor(norm).float() ** power)
        return norm

    def check_update(self) -> None:
        """Raise :class:`MomeError` where an update has made a weight infinite or no number."""
        self._refuse_unless_finite("largest weight after the update", _largest(self.model.parameters()))
        self.step_clips = []

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint is a model folder: with the processor beside the weights."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_processor(self.dataset.processor, Path(str(output_dir)))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = self.folder.path / f"checkpoint-{self.state.global_step}"
        try:
            with disk_errors(folder):
                if self.args.should_save:
                    self.folder.announce(folder.name)
                    # Written last, whole or not at all: a checkpoint without it was cut off, not damaged.
                    self.state.save_to_json = partial(_write_state, self.state)  # type: ignore[method-assign]
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self.folder.keep(self.state.best_model_checkpoint)
        except MomeError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except RuntimeError as error:  # torch.save's word for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise MomeError(f"{folder} cannot be written, is the disk full? ({shortened(error, 120)})") from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_trained(str(self.state.best_model_checkpoint))

    def _load_trained(self, folder: str) -> None:
        """Checkpoints hold the trained parts only, which Transformers' own loading would complain about."""
        with _checkpoint_file(Path(folder) / WEIGHTS):
            weights = read_weights(Path(folder))
            if not torch.isfinite(_largest(weights.values())):
                raise ValueError("weights that are not finite")
            self.model.load_trained(weights, folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with _checkpoint_file(Path(checkpoint) / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)
            assert self.optimizer is not None
            moments = [value for state in self.optimizer.state.values() for value in state.values()]
            if not torch.isfinite(_largest(moments)):
                raise ValueError("moments that are not finite")
        # The learning rate is that of this recipe at this step: a run that became longer has another curve.
        schedule = cast(LambdaLR, self.lr_scheduler)
        groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, start, factor in groups:
            group["lr"] = start * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]  # which the log shows

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with _checkpoint_file(Path(checkpoint) / "rng_state.pth"):
                super()._load_rng_state(checkpoint)


class _Callbacks(TrainerCallback):
    """Tells the sampler the epoch, and looks at the weights after each update, before any checkpoint."""

    def __init__(self, trainer: MatryoshkaTrainer):
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer's own call does not reach the sampler where several processes resume amid an epoch.
        self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.check_update()


def _write_state(state: TrainerState, path: str) -> None:
    write_text(Path(path), json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")


@contextmanager
def _checkpoint_file(file: Path) -> Iterator[None]:
    """Whatever is raised where a file of a checkpoint is loaded: the file is to blame, this run wrote it whole."""
    try:
        yield
    except Exception as error:
        raise damaged(file) from error


def _largest(values: Iterable[Tensor]) -> Tensor:
    """The largest magnitude in some tensors, not finite if one of their numbers is not."""
    floating = [value for value in values if value.is_floating_point() and value.numel()]
    return torch.nn.utils.get_total_norm(floating, math.inf)


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
