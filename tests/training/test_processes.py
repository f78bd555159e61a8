"""Training in two processes: as one, whatever is switched on, and on with the batches where one is left."""

from __future__ import annotations

import json
import math
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from mome.data.manifests import ManifestRow, read_manifest, write_manifest
from mome.data.tables import read_rows
from mome.errors import MomeError
from mome.model import forcing
from mome.training.run import _keep_batches
from tests.processes import torchrun
from tests.training.test_switches import (
    GROUPED,
    HALF,
    PACKED,
    SPARE,
    assert_as_trained,
    cut_off,
    error_rates,
    logged,
    run,
    weights,
    written,
)
from tests.training.toy import MOME


def files(output: Path) -> set[str]:
    """What a run has written, without the names of hosts and processes."""
    return {re.sub(r"events.out.*", "events", str(file.relative_to(output))) for file in output.rglob("*")}


def assert_resumed(output: Path, straight: Path) -> None:
    """It has logged and learnt what the run without an interruption has."""
    assert logged(output) == logged(straight)
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(output).items())


def with_damage(toy: Path, folder: Path) -> Path:
    """A manifest of seven clips, one that is damaged, and one of which only the training sees that it is damaged."""
    rows = read_manifest(toy / "data" / "manifest.csv")
    (folder / "damaged.mp4").write_bytes(b"no film")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        archive.add(folder / "damaged.mp4", "late.mp4")
    late = ManifestRow("late", folder / "shard.tar" / "late.mp4", "train", "set white", frames=25)
    rows = [*rows[:7], ManifestRow("early", folder / "damaged.mp4", "train", "set red"), late, *rows[9:]]
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


# Two updates an epoch, one checkpoint amid the second.
AMID = ["data.max_frames=56", "optim.steps=4", "validation.every_steps=3", 'validation.rates=["16,5"]']
DAMAGED = [*AMID, "data.limit=null", "data.skip_percent=20", "validation.batch=1"]
SHARED = [*AMID, "optim.shard=true"]
SWITCHES = ["optim.steps=2", *SPARE, "optim.gradient_checkpointing=true", *HALF]
# A step has gradients for one of the three groups alone.
ONE_GROUP = ["optim.steps=2", "optim.rates_per_step=1"]


@pytest.fixture(scope="module")
def damaged(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a training with damaged clips, and a cache of its own."""
    folder = tmp_path_factory.mktemp("damaged")
    return [*DAMAGED, f"data.manifests=[{with_damage(toy, folder)}]", f"data.cache_folder={folder}/cache"]


@pytest.fixture(scope="module")
def two(toy: Path, damaged: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trainings in two processes, some of them cut off in a copy and resumed; only to be read."""
    folder = tmp_path_factory.mktemp("two")

    def job(name: str, options: Sequence[str], adapter: str = MOME, resume: bool = False) -> tuple[str, list[Any]]:
        path, overrides = written(toy, folder / name, adapter)
        return str(folder / name), [str(path), [*overrides, *options], resume]

    def launch(*jobs: tuple[str, list[Any]]) -> None:
        (folder / "jobs.json").write_text(json.dumps(jobs))
        torchrun(folder / "log", "-m", "tests.training.launched", str(folder / "jobs.json"))

    launch(
        job("damaged", damaged),
        job("packed", ["optim.steps=2", *PACKED]),
        job("spare", ["optim.steps=2", *SPARE]),
        job("shared", SHARED),
        job("whole switches", SWITCHES, GROUPED),
        job("shared switches", [*SWITCHES, "optim.shard=true"], GROUPED),
        job("one group", ONE_GROUP, GROUPED),
    )
    for name in ("damaged", "shared"):
        shutil.copytree(folder / name / "run", folder / f"{name} resumed" / "run")
        cut_off(folder / f"{name} resumed" / "run", 4)
    launch(job("damaged resumed", damaged, resume=True), job("shared resumed", SHARED, resume=True))
    return folder


def alone(toy: Path, two: Path, name: str, folder: Path, *options: str) -> Path:
    """A copy of a training in two processes, cut off and resumed by this one."""
    shutil.copytree(two / name / "run", folder / "run")
    cut_off(folder / "run", 4)
    return run(toy, folder, *options, resume=True)


@pytest.mark.slow
def test_the_command_itself_runs_in_two_processes(toy: Path, tmp_path: Path):
    path, overrides = written(toy, tmp_path, MOME)
    torchrun(tmp_path / "log", "-m", "mome", "train", str(path), *overrides, "optim.steps=1")
    assert len(logged(tmp_path / "run")) == 1
    assert (tmp_path / "log").read_text().count(str(tmp_path / "run")) == 1  # the first process alone tells the folder
    assert weights(tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates_their_batches(
    toy: Path, two: Path, damaged: list[str], tmp_path: Path
):
    output = two / "damaged" / "run"
    parts = [(two / "damaged" / f"stored-{rank}.txt").read_text().split() for rank in (0, 1)]
    assert [len(part) for part in parts] == [5, 6]
    assert len({name for part in parts for name in part}) == 11, "a clip was stored twice"

    single = run(toy, tmp_path / "single", *damaged, "optim.accumulate=2")
    assert_as_trained(output, single, 1e-4)
    assert len(error_rates(output)) == 2
    assert error_rates(output) == error_rates(single)
    for folder in (output, single):
        skipped = [row for _, row in read_rows(folder / "skipped.csv", ("step", "id", "path", "reason"))]
        assert [(row["step"], row["id"]) for row in skipped] == [("0", "early"), (skipped[1]["step"], "late")]
        assert skipped[1]["step"] in "12"
        assert "damaged.mp4" in skipped[0]["reason"]
        assert "shard.tar/late.mp4" in skipped[1]["reason"]
    states = {f"checkpoint-{step}/rng_state_{rank}.pth" for step in (3, 4) for rank in (0, 1)}
    assert files(output) - states == files(single) - {f"checkpoint-{step}/rng_state.pth" for step in (3, 4)}
    assert len([*(output / "tensorboard").iterdir()]) == 1, "only the first process writes it"
    assert_resumed(two / "damaged resumed" / "run", output)

    # Where one process is left, it takes the batches of both.
    left = alone(toy, two, "damaged", tmp_path / "left", *damaged)
    assert_as_trained(left, single, 1e-4)
    cut_off(left, 4)
    run(toy, tmp_path / "left", *damaged, resume=True)
    assert_as_trained(left, single, 1e-4)


def test_processes_that_cannot_share_the_batches_of_an_update(tmp_path: Path):
    def resumed(processes: int) -> int:
        arguments = SimpleNamespace(world_size=processes, gradient_accumulation_steps=2)
        _keep_batches(arguments, tmp_path)
        return arguments.gradient_accumulation_steps

    for rank in range(4):
        (tmp_path / f"rng_state_{rank}.pth").touch()
    assert resumed(4) == 2  # as before it was recorded
    (tmp_path / "update.json").write_text('{"batches": 6}')
    assert [resumed(count) for count in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(MomeError, match=r"updates of 6 batches, which 4 processes .*: resume with 1 or 2 or 3 or 6 pr"):
        resumed(4)
    (tmp_path / "update.json").write_text('{"batches": "6"}')
    with pytest.raises(MomeError, match=r"update\.json is missing or damaged"):
        resumed(2)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["packed", "spare"])
def test_two_processes_train_as_one_whose_rates_share_nothing(
    toy: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.setattr(forcing, "_LEAST_SHARED", math.inf)
    single = run(toy, tmp_path / "single", "optim.steps=2", *PACKED, "optim.accumulate=2")
    assert_as_trained(two / way / "run", single, 1e-4)


@pytest.mark.slow
def test_two_processes_that_share_out_frozen_weights_train_as_one(toy: Path, two: Path, tmp_path: Path):
    output = two / "shared" / "run"
    single = run(toy, tmp_path / "single", *AMID, "optim.accumulate=2")
    assert_as_trained(output, single, 1e-4)
    assert len(error_rates(output)) == 2
    assert error_rates(output) == error_rates(single)
    language_model = AutoModelForCausalLM.from_pretrained(toy / "backbones" / "language_model")
    frozen = sum(value.numel() for value in language_model.model.layers.parameters())
    held = [int((two / "shared" / f"held-{rank}.txt").read_text()) for rank in (0, 1)]
    assert sum(held) == frozen
    assert max(held) < 0.6 * frozen
    assert weights(output).keys() == weights(single).keys()
    states = {f"checkpoint-{step}/rng_state_{rank}.pth" for step in (3, 4) for rank in (0, 1)}
    assert files(output) - states == files(single) - {f"checkpoint-{step}/rng_state.pth" for step in (3, 4)}
    assert_resumed(two / "shared resumed" / "run", output)
    # One process has nothing to share out, and goes on all the same.
    assert_as_trained(alone(toy, two, "shared", tmp_path / "left", *SHARED), single, 1e-4)


@pytest.mark.slow
def test_shared_out_weights_go_with_the_other_switches(two: Path):
    assert_as_trained(two / "shared switches" / "run", two / "whole switches" / "run", 2e-3)


def test_what_cannot_be_shared_out_is_said_before_anything_is_loaded(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for option, message in (
        ("model.unfrozen=[language_model]", r"optim.shard shares out frozen .* model.unfrozen trains them: leave one"),
        ("model.self_contained=true", r"model.self_contained copies weights that optim.shard shares out: leave one"),
    ):
        with pytest.raises(MomeError, match=message):
            run(toy, tmp_path, "optim.shard=true", option)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(MomeError, match=r"not run under accelerate's FSDP: .* --multi_gpu, and give optim.shard=true"):
        run(toy, tmp_path)


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_all_groups(toy: Path, two: Path, tmp_path: Path):
    single = run(toy, tmp_path / "single", *ONE_GROUP, "optim.accumulate=2", adapter=GROUPED)
    assert_as_trained(two / "one group" / "run", single, 1e-4)
