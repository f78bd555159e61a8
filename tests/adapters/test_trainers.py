"""Transformers' Trainer and TRL's with the routers' loss, and checkpoints of the adapter alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import Trainer, TrainingArguments

from mome.adapters import (
    AdapterContext,
    AdapterTraining,
    adapter_parameters,
    attach,
    load_adapter,
    load_balancing_loss,
)
from mome.errors import MomeError

from . import tiny


class Mine(AdapterTraining, Trainer):
    balance_weight = 0.5


def rows(count: int = 8) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in range(count):
        ids = tiny.ids(6, seed=seed)
        labels = ids.clone()
        labels[: seed % 3] = -100  # batches of different numbers of labels
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return found


def arguments(folder, **options) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        **{"max_steps": 1, "learning_rate": 1e-2, "save_steps": 1, **options},
    )


def gradients_of(trainer_class, accumulate: int, size: int, folder) -> dict[str, torch.Tensor]:
    """The gradient of the first update over the same four rows."""
    model = tiny.model("llama", "layer")
    options = {"max_grad_norm": 0.0, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
    found: dict[str, torch.Tensor] = {}

    class Caught(trainer_class):
        def create_optimizer(self, *args, **kwargs):
            optimizer = super().create_optimizer(*args, **kwargs)
            optimizer.register_step_pre_hook(
                lambda *_: found.update({key: value.grad.clone() for key, value in adapter_parameters(model)})
            )
            return optimizer

    Caught(model, arguments(folder, **options, train_sampling_strategy="sequential"), train_dataset=rows(4)).train()
    return found


@pytest.mark.parametrize(("accumulate", "size"), [(1, 4), (2, 2)])
def test_the_routers_loss_is_in_the_gradient_once_for_each_update(accumulate, size, tmp_path) -> None:
    model = tiny.model("llama", "layer").train()
    batch = {key: torch.stack([row[key] for row in rows(4)]) for key in ("input_ids", "attention_mask", "labels")}
    model(**batch).loss.backward()
    for start in range(0, 4, size):
        part = {key: value[start : start + size] for key, value in batch.items()}
        context = AdapterContext(part["attention_mask"].bool())
        model(**part, adapter_context=context)
        (0.5 / accumulate * load_balancing_loss(context)).backward()
    ours, without = (gradients_of(kind, accumulate, size, tmp_path) for kind in (Mine, Trainer))
    for key, value in adapter_parameters(model):
        torch.testing.assert_close(ours[key], value.grad, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(ours[key], without[key], rtol=1e-2, atol=1e-5) for key in ours)


def test_checkpoints_are_adapters_and_a_run_goes_on_from_one(tmp_path) -> None:
    whole = Mine(tiny.model("llama", "layer"), arguments(tmp_path / "a", max_steps=2), train_dataset=rows())
    whole.train()
    assert whole.state.log_history[0]["balance_loss"] == pytest.approx(1, abs=0.7)
    names = {file.name for file in (tmp_path / "a" / "checkpoint-1").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "optimizer.pt"} < names
    assert "model.safetensors" not in names
    again = Mine(
        tiny.model("llama", "layer", trained=False), arguments(tmp_path / "b", max_steps=2), train_dataset=rows()
    )
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))
    for (_, ours), (_, theirs) in zip(adapter_parameters(again.model), adapter_parameters(whole.model), strict=True):
        assert torch.equal(ours, theirs)
    loaded, ids = load_adapter(tiny.model(), tmp_path / "a" / "checkpoint-2"), tiny.ids(2, 5)
    assert torch.equal(loaded(ids).logits, whole.model.eval()(ids).logits)


def test_validation_is_the_task_alone_and_the_best_adapter_comes_back(tmp_path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 5.0}
    trainer = Mine(
        tiny.model("llama", "layer"),
        arguments(tmp_path, max_steps=2, **options),
        train_dataset=rows(),
        eval_dataset=rows(),
    )
    trainer.train()
    best = load_adapter(tiny.model(), trainer.state.best_model_checkpoint)
    for (_, ours), (_, theirs) in zip(adapter_parameters(trainer.model), adapter_parameters(best), strict=True):
        assert torch.equal(ours, theirs)
    plain = Trainer(trainer.model, arguments(tmp_path), eval_dataset=rows())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])


def test_a_routers_loss_that_gets_lost_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mome.adapters.trainer.use_context", lambda *_: nullcontext())
    with pytest.raises(MomeError, match="routing statistics did not come back"):
        Mine(tiny.model("llama", "layer"), arguments(tmp_path), train_dataset=rows(2)).train()
    Mine(tiny.model("llama", "lora"), arguments(tmp_path), train_dataset=rows(2)).train()  # has no routers


def test_groups_come_from_the_batch(tmp_path) -> None:
    grouped = [{**row, "group": index % 3} for index, row in enumerate(rows())]
    model = attach(tiny.model(), tiny.GROUPED["lora-ss"])
    Mine(model, arguments(tmp_path, remove_unused_columns=False), train_dataset=grouped).train()
    assert all(value.grad is None or value.isfinite().all() for _, value in adapter_parameters(model))
    assert model.model.layers[0].self_attn.q_proj.lora.specific.up.any()


def test_trl(tmp_path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")

    class MineSft(AdapterTraining, trl.SFTTrainer):
        pass

    texts = [{"input_ids": tiny.ids(6, seed=seed).tolist()} for seed in range(8)]
    options = trl.SFTConfig(
        **{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True},
        **{"max_steps": 2, "logging_steps": 1, "save_steps": 2, "dataset_kwargs": {"skip_prepare_dataset": True}},
    )
    model = tiny.model("llama", "layer")
    trainer = MineSft(model, options, train_dataset=datasets.Dataset.from_list(texts), processing_class=tokenizer())
    trainer.train()
    assert trainer.state.log_history[0]["balance_loss"] == pytest.approx(1, abs=0.7)
    loaded, ids = load_adapter(tiny.model(), tmp_path / "checkpoint-2"), tiny.ids(2, 5)
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)


@pytest.mark.parametrize(("accumulate", "size"), [(1, 4), (2, 2)])
def test_the_routers_loss_is_in_the_gradient_of_trl(accumulate, size, tmp_path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    ids = torch.stack([tiny.ids(6, seed=seed) for seed in range(4)])
    found = []
    for weight in (0.0, 0.5):

        class MineSft(AdapterTraining, trl.SFTTrainer):
            balance_weight = weight

            def create_optimizer(self, *args, **kwargs):
                optimizer = super().create_optimizer(*args, **kwargs)
                optimizer.register_step_pre_hook(
                    lambda *_: found.append({key: value.grad.clone() for key, value in adapter_parameters(self.model)})
                )
                return optimizer

        options = trl.SFTConfig(
            **{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True},
            **{"max_steps": 1, "max_grad_norm": 0.0, "dataset_kwargs": {"skip_prepare_dataset": True}},
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate},
            train_sampling_strategy="sequential",
        )
        rows = datasets.Dataset.from_list([{"input_ids": row} for row in ids.tolist()])
        model = tiny.model("llama", "layer")
        MineSft(model, options, train_dataset=rows, processing_class=tokenizer()).train()
    model = tiny.model("llama", "layer").train()
    for part in ids.split(size):
        context = AdapterContext()
        model(part, adapter_context=context)
        (0.5 / accumulate * load_balancing_loss(context)).backward()
    without, ours = found
    for key, value in adapter_parameters(model):
        expected = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(ours[key] - without[key], expected, rtol=1e-3, atol=1e-6)


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(number): number for number in range(61)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2")
