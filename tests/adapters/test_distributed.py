"""Two processes train as one does."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from mome.adapters import (
    AdapterContext,
    adapter_parameters,
    decoder_layers,
    load_adapter,
    load_balancing_loss,
    save_adapter,
)

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
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timeout=datetime.timedelta(seconds=120), rank=rank, world_size=2
    )
    found = {}
    for adapter in ADAPTERS:
        model = tiny.model("llama", adapter).train()
        parallel = DistributedDataParallel(model)
        for _ in range(2):  # a parameter without a gradient would make the second pass fail
            model.zero_grad()
            loss_of(parallel, adapter, rank).backward()
        found[adapter] = gradients(model)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_in_different_groups_get_the_gradients_of_one_process(tmp_path) -> None:
    multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for adapter in ADAPTERS:
        model = tiny.model("llama", adapter).train()
        ((loss_of(model, adapter, 0) + loss_of(model, adapter, 1)) / 2).backward()
        expected = gradients(model)
        assert expected.keys() == dict(adapter_parameters(model)).keys()
        for found in ranks:
            assert_same(found[adapter], expected)


def work_sharded(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timeout=datetime.timedelta(seconds=120), rank=rank, world_size=2
    )
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
    dist.destroy_process_group()


@pytest.mark.slow
def test_fsdp_has_the_gradients_of_one_process_and_saves_whole_adapters(tmp_path) -> None:
    multiprocessing.spawn(work_sharded, (tmp_path,), nprocs=2)
    for adapter in SHARDED:
        model = tiny.model("llama", adapter).train()
        ((loss_of(model, adapter, 0) + loss_of(model, adapter, 1)) / 2).backward()
        expected = gradients(model)
        for rank in range(2):
            assert_same(torch.load(tmp_path / f"{adapter}-{rank}.pt"), expected)
        loaded = load_adapter(tiny.model(), tmp_path / adapter)
        for (_, ours), (_, theirs) in zip(adapter_parameters(loaded), adapter_parameters(model), strict=True):
            assert torch.equal(ours, theirs)
