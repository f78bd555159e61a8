"""What Transformers' Trainer lacks for adapters: the routers' loss, and checkpoints of the adapter alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mome.adapters.context import AdapterContext, load_balancing_loss
from mome.adapters.experts import ExpertBank
from mome.adapters.folder import read_adapter, save_adapter
from mome.adapters.generation import use_context
from mome.errors import MomeError


class AdapterTraining:
    """A mix-in for ``Trainer`` or a subclass, such as TRL's: ``class Mine(AdapterTraining, SFTTrainer)``.

    In training it adds :attr:`balance_weight` times the load-balancing loss of the routers to the loss, once for each
    update however many batches are accumulated, and logs it as ``balance_loss``. A step's loss is that of its last
    forward pass. A batch may hold ``group``, see :class:`AdapterContext`; the Trainer keeps it with
    ``remove_unused_columns=False``. ``save_model`` and checkpoints write the adapter at work, see :func:`save_adapter`;
    resuming, and the best model at the end, read it.

    Attributes:
        balance_weight: factor of the loss, which is 1 at balance; 0.01 in MoME.
    """

    balance_weight: float = 0.01

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's."""
        self._balance: list[Tensor] = []
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training, with the routers' one.

        Raises:
            MomeError: the routers' statistics are lost, as where something copies the model's arguments.
        """
        inputs = dict(inputs)
        mask = inputs.get("attention_mask")
        counted = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        context = AdapterContext(token_mask=counted, group=inputs.pop("group", None))
        trainer: Any = self
        with use_context(trainer.accelerator.unwrap_model(model), context):
            base: Any = super()
            found = base.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = found[0] if return_outputs else found
        routed = any(isinstance(module, ExpertBank) for module in model.modules())
        if model.training and routed and not context.routing:
            raise MomeError(
                "the experts' routing statistics did not come back from the model, so their loss would be missing: "
                "train experts without what wraps the model, or by DistributedDataParallel or FSDP2"
            )
        if model.training and routed:
            balance = load_balancing_loss(context)
            self._balance.append(balance.detach())
            # A loss for each token of the update is not divided by its batches any more, but the routers' one must be.
            scaled = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            share = trainer.current_gradient_accumulation_steps if scaled or trainer.compute_loss_func else 1
            loss = loss + self.balance_weight / share * balance
        return (loss, found[1]) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add this process's mean balance loss since the last log."""
        if "loss" in logs and self._balance:
            logs = {**logs, "balance_loss": torch.stack(self._balance).mean().item()}
            self._balance = []
        base: Any = super()
        base.log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, and the tokenizer if the Trainer has it."""
        trainer: Any = self
        folder = output_dir or trainer.args.output_dir
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), folder)
        if trainer.processing_class is not None and trainer.args.should_save:
            trainer.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        trainer: Any = self
        read_adapter(trainer.accelerator.unwrap_model(trainer.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        trainer: Any = self
        self._load_from_checkpoint(trainer.state.best_model_checkpoint)
