"""What recipes for large models switch on: precision, checkpointing, accumulation, workers, several processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import get_scheduler

import mome
from mome.data.datasets import SpeechDataset
from mome.errors import MomeError
from mome.media import load_clip
from mome.model import forcing
from mome.model.packing import pack
from mome.rates import Rates
from mome.training import load_recipe
from mome.training.build import build
from mome.training.run import _arguments, _plan, train
from tests.training.test_run import recipe
from tests.training.toy import MOME

# Two batches of four clips an epoch, each clip with three rates an update.
OPTIONS = ["data.limit=8", "data.max_frames=108", "validation.rates=[]", "optim.log_steps=1", "optim.epochs=2"]
HALF = ("optim.precision=bf16", "optim.language_model_dtype=bfloat16")
LORA = "{type: lora, bottleneck: 16}"
PACKED = ('optim.rates=["4,2","4,5","16,2","16,5"]', "optim.rates_per_step=null", "optim.tasks=[avsr]")
SPARE = (*PACKED, "optim.spare_memory=true")
GROUPED = "{type: lora, bottleneck: 16, shared: true, specific: tasks}"


def written(toy: Path, folder: Path, adapter: str) -> tuple[Path, list[str]]:
    """The recipe and its overrides."""
    folder.mkdir(exist_ok=True)
    return recipe(toy, folder / "run", adapter=adapter), [*OPTIONS, f"data.cache_folder={toy}/cache"]


def run(toy: Path, folder: Path, *options: str, adapter: str = MOME, resume: bool = False) -> Path:
    path, overrides = written(toy, folder, adapter)
    return train(path, [*overrides, *options], resume=resume)


def history(output: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((output / "history.json").read_text())
    return entries


def logged(output: Path) -> list[dict[str, Any]]:
    """What was logged at each update, but for how long it took."""
    return [entry for entry in history(output) if "loss" in entry]


def error_rates(output: Path) -> list[float]:
    return [entry["eval_wer/16,5"] for entry in history(output) if "eval_wer/16,5" in entry]


def losses(output: Path) -> Tensor:
    return torch.tensor([entry["loss"] for entry in logged(output)], dtype=torch.float64)


def weights(output: Path) -> dict[str, Tensor]:
    return load_file(output / "model.safetensors")


def assert_as_trained(output: Path, expected: Path, tolerance: float) -> None:
    """The same logs, router's and loss's, and the same weights."""
    logs, expected_logs = logged(output), logged(expected)
    assert len(logs) == len(expected_logs) > 1
    for actual, other in zip(logs, expected_logs, strict=True):
        assert actual == pytest.approx(other, rel=tolerance, abs=tolerance)
    found = weights(output)
    for name, value in weights(expected).items():
        # In the mean, as AdamW moves an element whose gradient is next to nothing as far as any other, either way.
        assert (found[name] - value).square().mean().sqrt() < tolerance, name


@pytest.fixture(scope="module")
def plain(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates with none of the switches."""
    return run(toy, tmp_path_factory.mktemp("plain"))


def test_bf16_trains_near_fp32_and_keeps_the_weights_in_fp32(toy: Path, tmp_path: Path, plain: Path):
    output = run(toy, tmp_path, "optim.precision=bf16")
    assert not torch.equal(losses(output), losses(plain)), "it was not switched on"
    torch.testing.assert_close(losses(output), losses(plain), rtol=0.03, atol=0)
    saved = [*weights(output).values()]
    saved += [*load_file(output / "checkpoint-4" / "model.safetensors").values()]
    assert {value.dtype for value in saved} == {torch.float32}


def test_a_frozen_language_model_in_bf16_trains_as_one_in_fp32_under_bf16(toy: Path, tmp_path: Path):
    output = run(toy, tmp_path / "half", *HALF)
    assert_as_trained(output, run(toy, tmp_path / "rounded", HALF[0]), 1e-9)
    assert mome.load(output).model.language_model.dtype == torch.float32


@pytest.fixture
def four_bits() -> Any:
    return pytest.importorskip("bitsandbytes", reason="language models in 4 bits need bitsandbytes")


def test_gradients_through_4_bits_are_those_of_the_weights_that_they_stand_for(
    toy: Path, tmp_path: Path, four_bits: Any
):
    path, _ = written(toy, tmp_path, MOME)
    torch.manual_seed(0)
    model, processor = build(load_recipe(path, ["optim.language_model_dtype=int4"]))
    torch.manual_seed(0)
    plain, _ = build(load_recipe(path))
    coarse = 0
    for name, value in model.language_model.named_parameters():
        if isinstance(value, four_bits.nn.Params4bit):
            exact = four_bits.functional.dequantize_4bit(value.data, value.quant_state)
            coarse += 1
            plain.language_model.get_parameter(name).data.copy_(exact)
    assert coarse == 7 * len(model.language_model.model.layers)
    clips = processor([load_clip(toy / "data" / f"train_{number}_0.mp4") for number in (0, 1)])
    found = []
    for each in (model, plain):
        with torch.no_grad():
            for value in each.parameters():
                if value.requires_grad:
                    value.copy_(torch.linspace(-0.1, 0.1, value.numel()).view_as(value))
            each(**clips, labels=torch.tensor([[5, 1], [6, 1]]), rates=Rates(4, 2))  # as a validation does
        loss = each(**clips, labels=torch.tensor([[5, 1], [6, 1]]), rates=Rates(4, 2)).loss
        loss.backward()
        found.append({name: value.grad for name, value in each.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert {"connector", "language_model"} == {name.partition(".")[0] for name in found[0]}
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_language_model_in_4_bits_is_trained_through_and_not_saved(
    toy: Path, tmp_path: Path, plain: Path, four_bits: Any, precision: str
):
    options = ["optim.language_model_dtype=int4", f"optim.precision={precision}", "validation.every_steps=3"]
    options += ['validation.rates=["16,5"]']
    output = run(toy, tmp_path, *options)
    straight, logs = weights(output), logged(output)
    assert straight.keys() == weights(plain).keys()
    assert {value.dtype for value in straight.values()} == {torch.float32}
    torch.testing.assert_close(losses(output), losses(plain), rtol=0.15, atol=0)
    for folder in (output, output / "checkpoint-3"):
        assert "quantization_config" not in (folder / "config.json").read_text()
        assert mome.load(folder).model.language_model.dtype == torch.float32
    cut_off(output, 4)
    run(toy, tmp_path, *options, resume=True)
    assert logged(output) == logs
    assert all(torch.equal(value, straight[name]) for name, value in weights(output).items())


def test_fewer_bits_that_cannot_be_trained_are_refused(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for options, message in (
        (("model.unfrozen=[language_model]",), "language_model_dtype rounds frozen .*unfrozen trains them: leave one"),
        (("model.self_contained=true",), "self_contained copies weights that optim.language_model_dtype rounds: leave"),
        (("optim.shard=true",), "shard cannot share out weights of optim.language_model_dtype=int4: give bfloat16 wi"),
    ):
        with pytest.raises(MomeError, match=message):
            run(toy, tmp_path, "optim.language_model_dtype=int4", *options)
    with pytest.raises(MomeError, match=r"optim.language_model_dtype=int8 is unknown: choose bfloat16 or int4"):
        run(toy, tmp_path, "optim.language_model_dtype=int8")
    monkeypatch.setattr("mome.checkpoints.bits.find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(MomeError, match=r"optim.language_model_dtype=int4 needs further packages: pip install bitsa"):
        run(toy, tmp_path, "optim.language_model_dtype=int4")


def test_gradient_checkpointing_changes_nothing(
    toy: Path, tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpointed = []

    def checkpoint(function: Any, *args: Any, **options: Any) -> Any:
        checkpointed.append(function)
        return original(function, *args, **options)

    original = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", checkpoint)
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", checkpoint, raising=False)
    output = run(toy, tmp_path, "optim.gradient_checkpointing=true")
    assert checkpointed, "no activations were checkpointed"
    assert all(entry["router/balance_loss"] > 0 for entry in logged(output))
    assert_as_trained(output, plain, 1e-5)


@pytest.mark.parametrize("way", [PACKED, SPARE])
def test_rates_train_as_if_each_were_read_by_itself(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
):
    packed = []
    monkeypatch.setattr(forcing, "pack", lambda *args: packed.append(args) or pack(*args))
    output = run(toy, tmp_path / "way", *way)
    assert bool(packed) == (way == PACKED)
    monkeypatch.setattr(forcing, "_LEAST_SHARED", math.inf)
    assert_as_trained(output, run(toy, tmp_path / "alone", *PACKED), 1e-5)


def test_workers_load_the_same_batches(toy: Path, tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch):
    def load(self: SpeechDataset, example: tuple[int, int]) -> dict[str, Any]:
        assert torch.utils.data.get_worker_info() is not None
        return original(self, example)

    original = SpeechDataset.__getitem__
    monkeypatch.setattr(SpeechDataset, "__getitem__", load)
    output = run(toy, tmp_path, "data.workers=2")
    assert torch.equal(losses(output), losses(plain))
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(output).items())


def test_two_accumulated_halves_are_the_batch(toy: Path, tmp_path: Path):
    # Without the balance loss, which is not a mean over clips. All transcripts have as many tokens.
    halves = run(toy, tmp_path / "halves", "optim.epochs=4", "optim.accumulate=2", adapter=LORA)
    batch = run(toy, tmp_path / "batch", "optim.epochs=4", "data.max_frames=216", adapter=LORA)
    assert_as_trained(halves, batch, 1e-4)


def cut_off(output: Path, step: int) -> None:
    """Make of a run one that was killed while it wrote its last checkpoint."""
    for name in (f"checkpoint-{step}/trainer_state.json", "history.json", "config.json", "model.safetensors"):
        (output / name).unlink()


@pytest.mark.parametrize(
    "switch",
    ["optim.precision=bf16", "optim.gradient_checkpointing=true", "data.workers=2", "optim.accumulate=2", *SPARE[-1:]],
)
def test_a_run_with_a_switch_resumes_to_the_same_weights(toy: Path, tmp_path: Path, switch: str):
    # Three batches an epoch, or two updates where two are accumulated: the checkpoint is amid the second epoch.
    options = ["data.limit=null", "optim.steps=6", "validation.every_steps=4", switch]
    output = run(toy, tmp_path, *options)
    straight, logs = weights(output), logged(output)
    cut_off(output, 6)
    run(toy, tmp_path, *options, resume=True)
    assert logged(output) == logs
    assert all(torch.equal(value, straight[name]) for name, value in weights(output).items())


def test_the_keys_of_optim_reach_the_trainer(toy: Path, tmp_path: Path):
    options = ["optim.clip_norm=3.5", "optim.weight_decay=0.2", "optim.betas=[0.8,0.7]", "optim.warmup_steps=5"]
    options += ["optim.accumulate=3", "optim.seed=9", "optim.learning_rate=0.01"]
    path, overrides = written(toy, tmp_path, MOME)
    described = load_recipe(path, [*overrides, *options])
    arguments = _arguments(described, _plan(described))
    assert (arguments.max_grad_norm, arguments.weight_decay) == (3.5, 0.2)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.warmup_steps) == (0.8, 0.7, 5)
    assert (arguments.gradient_accumulation_steps, arguments.seed, arguments.learning_rate) == (3, 9, 0.01)
    assert (arguments.lr_scheduler_type, arguments.report_to) == ("cosine", ["tensorboard"])
    for name, factors in (("cosine", [1, 0.5, 0]), ("linear", [1, 0.5, 0]), ("constant", [1, 1, 1])):
        described = load_recipe(path, [*overrides, f"optim.scheduler={name}", "optim.report_to=[]"])
        arguments = _arguments(described, _plan(described))
        assert arguments.report_to == []
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = get_scheduler(arguments.lr_scheduler_type, optimizer, 2, 10)
        assert [schedule.lr_lambdas[0](step) for step in (1, 2, 6, 10)] == pytest.approx([0.5, *factors])


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mome.training.run.find_spec", lambda name: name == "accelerate" or None)
    with pytest.raises(MomeError, match=r"optim.report_to=trackio needs trackio: pip install trackio, or leave it out"):
        run(toy, tmp_path, "optim.report_to=[trackio]")
    with pytest.raises(MomeError, match=r"optim.report_to=mlflow is unknown: choose tensorboard or wandb or trackio"):
        run(toy, tmp_path, "optim.report_to=[mlflow]")
    assert not list(tmp_path.glob("**/recipe.yaml"))
