"""Two processes train as one does."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mome.adapters import (
    AdapterContext,
    adapter_parameters,
    decoder_layers,
    load_adapter,
    load_balancing_loss,
    save_adapter,
)
from tests.processes import spawned

from . import tiny
from .test_training import assert_same, gradients

ADAPTERS = ("layer", "lora", "routers-layer", *tiny.GROUPED)
SHARDED = ("lora", "lora-mss", "layer", "attention", "ffn", "routers-layer")
CHECKPOINTED = "ffn"
GROUPS = ((0, 0), (2, 0))  # of the sequences of each rank; nobody uses group 1


def loss_of(model, adapter: str, rank: int) -> torch.Tensor:
    ids, context = tiny.ids(2, 6, seed=rank), AdapterContext(group=torch.tensor(GROUPS[rank]))
    loss = model(ids, labels=ids, use_cache=False, adapter_context=context).loss
    return loss + load_balancing_loss(context) if context.routing else loss


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timeout=datetime.timedelta(seconds=60), rank=rank, world_size=2
    )
    replicated(rank, folder)
    sharded(rank, folder)
    dist.barrier()
    os._exit(0)  # what is to be compared is written: gloo's threads need not come to an end, which has no limit


def replicated(rank: int, folder: Path) -> None:
    found = {}
    for adapter in ADAPTERS:
        model = tiny.model("llama", adapter).train()
        parallel = DistributedDataParallel(model)
        for _ in range(2):  # a parameter without a gradient would make the second pass fail
            model.zero_grad()
            loss_of(parallel, adapter, rank).backward()
        found[adapter] = gradients(model)
    torch.save(found, folder / f"{rank}.pt")


def sharded(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = dist.init_device_mesh("cpu", (2,))
    for adapter in SHARDED:
        model = tiny.model("llama", adapter).train()
        for layer in decoder_layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(value, DTensor) for _, value in adapter_parameters(model))
        if adapter == CHECKPOINTED:
            model.gradient_checkpointing_enable()
        for _ in range(2):
            model.zero_grad()
            loss_of(model, adapter, rank).backward()
        found = {name: value.grad.full_tensor() for name, value in adapter_parameters(model)}
        torch.save(found, folder / f"{adapter}-{rank}.pt")
        save_adapter(model, folder / adapter)
        dist.barrier()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written."""
    folder = tmp_path_factory.mktemp("ranks")
    spawned(work, folder)
    return folder


@pytest.mark.slow
def test_two_ranks_in_different_groups_get_the_gradients_of_one_process(ranks) -> None:
    both = [torch.load(ranks / f"{rank}.pt") for rank in range(2)]
    for adapter in ADAPTERS:
        model = tiny.model("llama", adapter).train()
        ((loss_of(model, adapter, 0) + loss_of(model, adapter, 1)) / 2).backward()
        expected = gradients(model)
        assert expected.keys() == dict(adapter_parameters(model)).keys()
        for found in both:
            assert_same(found[adapter], expected)


@pytest.mark.slow
def test_fsdp_has_the_gradients_of_one_process_and_saves_whole_adapters(ranks) -> None:
    for adapter in SHARDED:
        model = tiny.model("llama", adapter).train()
        ((loss_of(model, adapter, 0) + loss_of(model, adapter, 1)) / 2).backward()
        expected = gradients(model)
        for rank in range(2):
            assert_same(torch.load(ranks / f"{adapter}-{rank}.pt"), expected)
        loaded = load_adapter(tiny.model(), ranks / adapter)
        for (_, ours), (_, theirs) in zip(adapter_parameters(loaded), adapter_parameters(model), strict=True):
            assert torch.equal(ours, theirs)
