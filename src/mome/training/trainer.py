"""Transformers' Trainer with Matryoshka steps, and validation by word error rate."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mome.adapters import RouterStatistics
from mome.adapters.files import save_tensors
from mome.adapters.inventory import sharded
from mome.checkpoints.folder import WEIGHTS, read_weights
from mome.data.datasets import SpeechDataset
from mome.data.sampling import FrameBudgetSampler
from mome.errors import MomeError, listed, shortened
from mome.features import Features
from mome.files import disk_errors, write_text
from mome.model import MomeForSpeechRecognition
from mome.model.alignment import Alignment
from mome.model.model import EncodedClips
from mome.model.objective import SpeechOutput
from mome.rates import TASKS, Rates
from mome.training.run_folder import UPDATE, RunFolder, damaged, save_processor
from mome.training.sharding import wrap
from mome.training.sharing import SkippedClips

logger = logging.getLogger(__name__)

ALIGNMENT = "alignment.safetensors"  # in a checkpoint, beside the weights
Validate = Callable[[MomeForSpeechRecognition], dict[str, float]]


class MatryoshkaTrainer(Trainer):
    """Trains at several rates: every step passes the same clips through all rates that ``schedule`` gives.

    If a loss, a gradient or an updated weight is not finite, training ends at once with a :class:`MomeError`, before
    any of it is saved.

    Args:
        model: the recogniser.
        args: Transformers' training arguments.
        dataset: the training clips.
        sampler: makes batches of them.
        schedule: gives the rates of a step.
        task_weights: factors on the loss by task.
        connector_learning_rate: the connector's own; ``None`` for that of ``args``.
        validate: computes word error rates by name, such as ``"wer/4,2"``; ``None`` for no validation.
        rate_weights: factors on the loss by rates.
        active_experts: gives the number of active routed experts of a step, ``None`` for the adapter's own.
        spare_memory: as for the recogniser's ``forward``.
        skipped: gets to know the clips that cannot be read, at every log.
        average_last: number of checkpoints whose mean is the model at the end, the last ones; ``None`` for the best.
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
        connector_learning_rate: float | None = None,
        rate_weights: Mapping[str, float] | None = None,
        active_experts: Callable[[int], int | None] = lambda step: None,
        spare_memory: bool = False,
        skipped: SkippedClips | None = None,
        average_last: int | None = None,
    ):
        # The Trainer only needs to have an eval_dataset: evaluate() below does not use it.
        evaluated = dataset if validate is not None else None
        super().__init__(model, args, train_dataset=dataset, eval_dataset=evaluated, data_collator=dataset.collate)
        self.dataset = dataset
        self.sampler = sampler
        self.schedule = schedule
        self.active_experts = active_experts
        self.options = {
            "task_weights": dict(task_weights or {}),
            "rate_weights": dict(rate_weights or {}),
            "spare_memory": spare_memory,
        }
        self.validate = validate
        self.connector_learning_rate = connector_learning_rate
        self.listed = {str(rates) for rates in model.rate_set.rates(TASKS)}
        self.skipped, self.lost = skipped, dict[int, str]()
        self.average_last = average_last
        self.folder = RunFolder(Path(str(args.output_dir)), average_last or 1)
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

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's, with groups of their own for the connector if it has its own learning rate."""
        optimizer = super().create_optimizer(model)
        if self.connector_learning_rate is not None:
            connector = {id(parameter) for parameter in self.model.connector.parameters()}
            for group in list(optimizer.param_groups):
                own = [value for value in group["params"] if id(value) in connector]
                group["params"] = [value for value in group["params"] if id(value) not in connector]
                optimizer.add_param_group({**group, "params": own, "lr": self.connector_learning_rate})
        return optimizer

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if training and model is self.model and sharded(model):  # which Accelerate refuses to wrap
            return wrap(self.accelerator.prepare_model(model, evaluation_mode=True), self.args.device)
        return cast(Any, super())._wrap_model(model, training, dataloader)  # the base class has no annotations

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Matryoshka loss of a batch, see :class:`~mome.model.objective.SpeechOutput`."""
        step = self.state.global_step
        rates, active_experts = self.schedule(step), self.active_experts(step)
        batch = dict(inputs)
        self.lost |= batch.pop("lost", {})
        if "clips" in batch:
            self.step_clips.append(batch.pop("clips"))
        sides = {
            name: Features(batch.pop(f"{name}_frames"), batch.pop(f"{name}_lengths"))
            for name in ("audio", "video")
            if f"{name}_frames" in batch
        }
        if sides:
            batch["encoded"] = EncodedClips(sides.get("audio"), sides.get("video"))
        output: SpeechOutput = model(**batch, matryoshka=rates, active_experts=active_experts, **self.options)
        assert output.loss is not None
        self._refuse_unless_finite("loss", output.loss)
        self._note(output)
        if active_experts is not None:
            self.step_logs.setdefault("router/top_k", []).append(output.loss.new_tensor(active_experts))
        return (output.loss, output) if return_outputs else output.loss

    def _note(self, output: SpeechOutput) -> None:
        """Keep the values of a pass for the next log."""
        values = {f"loss/{self._listed(name)}": loss for name, loss in (output.transcript_losses or {}).items()}
        values |= {f"left_out/{self._listed(name)}": share for name, share in (output.left_out or {}).items()}
        values |= {f"connector/{name}_loss": loss for name, loss in (output.connector_losses or {}).items()}
        if output.balance_loss is not None:
            values["router/balance_loss"] = output.balance_loss
            values |= routing_summary(list((output.routing or {}).values()))
        values |= connector_routing_summary(output.connector_routing or {})
        for name, value in values.items():
            self.step_logs.setdefault(name, []).append(value.detach())

    def _listed(self, rates: str) -> str:
        """The name in the log: real-valued rates (MQT) would give a curve for each step, so they are logged by task."""
        return rates if rates in self.listed else Rates.parse(rates).task

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add losses by rate and router statistics, averaged since the last log and over all processes.

        Raises:
            MomeError: more clips than allowed could not be read.
        """
        if self.skipped is not None:
            self.skipped.add(self.lost, max(self.state.global_step, 1))
            self.dataset.skipped |= {place for place in self.skipped.found if place < len(self.dataset)}
        self.lost = {}
        if "loss" in logs:
            if self.step_logs:  # every process has the same names, because all use the same rates
                own = torch.stack([torch.stack(values).float().mean() for values in self.step_logs.values()])
                means = self.accelerator.reduce(own, "mean").tolist()
                logs = {**logs, **dict(zip(self.step_logs, means, strict=True))}
            self.step_logs = {}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute and log the word error rates on the validation split."""
        assert self.validate is not None
        training = self.model.training
        metrics = {f"eval_{name}": value for name, value in self.validate(self.model.train(False)).items()}
        self.model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _refuse_unless_finite(self, what: str, value: Tensor) -> None:
        """Raise :class:`MomeError` with the step and its clips if a scalar is infinite or NaN."""
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
        norm = cast(Any, super())._get_grad_norm(model, grad_norm)  # the base class has no annotations
        # Without clipping AdamW squares the gradient, and after an infinite square a weight never changes again.
        power = 1 if self.args.max_grad_norm > 0 else 2
        self._refuse_unless_finite("gradient's norm", torch.as_tensor(norm).float() ** power)
        return norm

    def check_update(self) -> None:
        """Raise :class:`MomeError` if an update has made a weight infinite or NaN."""
        trained = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
        self._refuse_unless_finite("largest weight after the update", _largest(trained))
        self.step_clips = []

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save a checkpoint with the processor, which makes it a model folder."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_processor(self.dataset.processor, Path(str(output_dir)))
            batches = self.args.gradient_accumulation_steps * self.args.world_size
            write_text(Path(str(output_dir)) / UPDATE, json.dumps({"batches": batches}))
            if self.model.alignment is not None:
                save_alignment(self.model.alignment, Path(str(output_dir)))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = self.folder.path / f"checkpoint-{self.state.global_step}"
        try:
            with disk_errors(folder):
                if self.args.should_save:
                    self.folder.announce(folder.name)
                    # Written last and atomically, so a checkpoint without it is incomplete, not damaged.
                    self.state.save_to_json = partial(_write_state, self.state)  # type: ignore[method-assign]
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self.folder.keep(self.state.best_model_checkpoint)
        except MomeError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except RuntimeError as error:  # raised by torch.save if the disk is full
            shutil.rmtree(folder, ignore_errors=True)
            raise MomeError(f"{folder} cannot be written, is the disk full? ({shortened(error, 120)})") from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.average_last is None:
            load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
        else:
            self.load_average(self.average_last)
            self.evaluate()

    def load_average(self, count: int) -> None:
        """Give the model the mean of the weights of its last ``count`` checkpoints, or of all if there are fewer."""
        self.accelerator.wait_for_everyone()  # until the last one is written
        checkpoints = self.folder.complete()[-count:]
        if len(checkpoints) < count and self.args.should_save:
            logger.warning("optim.average_last=%d: the run has %d checkpoints only", count, len(checkpoints))
        total: dict[str, Tensor] = {}
        for folder in checkpoints:
            for name, value in checkpoint_weights(folder).items():
                total[name] = total[name] + value if name in total and value.is_floating_point() else value
        means = {
            name: value / len(checkpoints) if value.is_floating_point() else value for name, value in total.items()
        }
        self.model.load_trained(means, checkpoints[-1])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with _checkpoint_file(Path(checkpoint) / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)
            assert self.optimizer is not None
            moments = [value for state in self.optimizer.state.values() for value in state.values()]
            if not torch.isfinite(_largest(moments)):
                raise ValueError("moments that are not finite")
        # Set the learning rate of this recipe at this step, because a run made longer has another schedule.
        schedule = cast(LambdaLR, self.lr_scheduler)
        groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, start, factor in groups:
            group["lr"] = start * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]  # for the log

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with _checkpoint_file(Path(checkpoint) / "rng_state.pth"):
                super()._load_rng_state(checkpoint)


class _Callbacks(TrainerCallback):
    """Sets the sampler's epoch, and checks the weights after each update, before they are saved."""

    def __init__(self, trainer: MatryoshkaTrainer):
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer's own call does not reach the sampler if several processes resume within an epoch.
        self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.check_update()


def load_weights(model: MomeForSpeechRecognition, folder: Path) -> None:
    """Load a checkpoint's weights, which are the trained parts only, unlike those Transformers expects.

    Raises:
        MomeError: a file is missing or damaged.
    """
    with _checkpoint_file(folder / WEIGHTS):
        model.load_trained(checkpoint_weights(folder), folder)
    if model.alignment is not None:
        with _checkpoint_file(folder / ALIGNMENT):
            model.alignment.load_state_dict(load_file(folder / ALIGNMENT))


def checkpoint_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint by name; raises :class:`MomeError` if they are missing, damaged or not finite."""
    with _checkpoint_file(folder / WEIGHTS):
        weights: dict[str, Tensor] = read_weights(folder)
        if not torch.isfinite(_largest(weights.values())):
            raise ValueError("weights that are not finite")
        return weights


def save_alignment(alignment: Alignment, folder: Path) -> None:
    """Write what :func:`load_weights` reads besides the model's weights."""
    save_tensors(alignment.state_dict(), folder / ALIGNMENT)


def _write_state(state: TrainerState, path: str) -> None:
    write_text(Path(path), json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")


@contextmanager
def _checkpoint_file(file: Path) -> Iterator[None]:
    """Turn any exception while a checkpoint's file is loaded into a :class:`MomeError` that the file is damaged."""
    try:
        yield
    except Exception as error:
        raise damaged(file) from error


def _largest(values: Iterable[Tensor]) -> Tensor:
    """The largest magnitude in several tensors; not finite if an element is not."""
    floating = [value for value in values if value.is_floating_point() and value.numel()]
    return torch.nn.utils.get_total_norm(floating, math.inf)


def routing_summary(routing: Sequence[RouterStatistics]) -> dict[str, Tensor]:
    """Values that show whether the routers of MoME adapters collapse.

    Args:
        routing: the statistics of each layer's router.

    Returns:
        ``router/entropy`` (nats) and ``router/unused`` (share of experts without a token), means over the layers;
        ``router/min_entropy``, ``router/max_unused``, ``router/max_load``, those of the worst layer, where a load is an
        expert's share of the assignments, at most 1 / k; ``router/load_0`` and so on, mean loads of each expert.
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
    """Values that show whether the routers of a mixture of projectors collapse.

    Returns:
        For every router, mean entropy in nats, such as ``connector/audio/entropy``, and each expert's share of the
        assignments, ``connector/audio/load_0`` and so on.
    """
    values = {f"connector/{name}/entropy": entry.entropy for name, entry in routing.items()}
    for name, entry in routing.items():
        values |= {f"connector/{name}/load_{expert}": share for expert, share in enumerate(entry.load)}
    return values
