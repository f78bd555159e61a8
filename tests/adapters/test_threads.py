"""Several threads on one model: each pass has its own context, and its repetition under checkpointing too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

from mome.adapters import AdapterContext, adapter_parameters, load_balancing_loss, use_context

from . import tiny

pytestmark = pytest.mark.usefixtures("eager_switching")
THREADS, PASSES = 4, 200
everything = pytest.mark.parametrize("adapter", ["layer", "attention", "ffn", *tiny.GROUPED])


def at_once(*jobs: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def context_of(kind: int) -> AdapterContext:
    """Kind 0 to 2: another group, other padding and another length."""
    mask = torch.ones(2, 4 + kind, dtype=torch.bool)
    mask[0, : 1 + kind] = False
    return AdapterContext(mask, torch.tensor([kind, 2 - kind]))


def run(model, kind: int) -> tuple[torch.Tensor, dict[int, list[float]]]:
    context = context_of(kind)
    with torch.no_grad():
        logits = model(tiny.ids(2, 4 + kind), adapter_context=context, use_cache=False).logits
    return logits, {layer: [float(seen.balance_loss), *seen.load.tolist()] for layer, seen in context.routing.items()}


@everything
@pytest.mark.slow
def test_every_pass_has_its_own_groups_and_statistics(adapter) -> None:
    model = tiny.model("llama", adapter)
    alone = [run(model, kind) for kind in range(3)]
    assert [sorted(routing) for _, routing in alone] == [[] if adapter in tiny.GROUPED else [0, 1, 2]] * 3

    def wrong(thread: int) -> int:
        count = 0
        for number in range(PASSES):
            kind = (thread + number) % 3
            logits, routing = run(model, kind)
            count += not torch.equal(logits, alone[kind][0]) or routing != alone[kind][1]
        return count

    assert at_once(*(lambda thread=thread: wrong(thread) for thread in range(THREADS))) == [0] * THREADS


@pytest.mark.parametrize("adapter", tiny.GROUPED)
def test_blocks_are_the_threads_own(adapter) -> None:
    model, ids = tiny.model("llama", adapter), tiny.ids(2, 4)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}

    def written(group: int) -> torch.Tensor:
        with use_context(model, AdapterContext(group=group)):
            return model.generate(ids, **options)

    alone = [written(group) for group in range(3)]
    assert not torch.equal(alone[0], alone[1])

    def wrong(thread: int) -> int:
        return sum(not torch.equal(written(n % 3), alone[n % 3]) for n in range(thread, thread + 20))

    assert at_once(*(lambda thread=thread: wrong(thread) for thread in range(THREADS))) == [0] * THREADS


def test_blocks_nest_and_end_with_an_exception() -> None:
    model, other, ids = tiny.model("llama", "lora-ss"), tiny.model("llama", "lora-ss"), tiny.ids(1, 4)
    one, two = (model(ids, adapter_context=AdapterContext(group=group)).logits for group in (1, 2))
    hooks = [len(model.get_decoder()._forward_pre_hooks)]
    with use_context(model, AdapterContext(group=1)):
        with suppress(ZeroDivisionError), use_context(model, AdapterContext(group=2)):
            assert torch.equal(model(ids).logits, two)
            raise ZeroDivisionError
        with use_context(other, AdapterContext(group=2)):
            assert torch.equal(model(ids).logits, one)
        assert torch.equal(model(ids).logits, one)
        hooks.append(len(model.get_decoder()._forward_pre_hooks))
    assert hooks == [1, 1]
    with pytest.raises(Exception, match="specific to 3 groups"):
        model(ids)


def total_loss(model, kind: int) -> torch.Tensor:
    """Of two passes in different contexts, so that their repetitions mix."""
    total = torch.zeros(())
    for one in (kind, (kind + 1) % 3):
        ids, context = tiny.ids(2, 4 + one), context_of(one)
        total = total + model(ids, labels=ids, adapter_context=context, use_cache=False).loss
        if context.routing:
            total = total + load_balancing_loss(context)
    return total


def gradients(model, kind: int) -> list[torch.Tensor]:
    trained = [parameter for _, parameter in adapter_parameters(model)]
    return list(torch.autograd.grad(total_loss(model, kind), trained))


@everything
def test_gradient_checkpointing_beside_other_passes(adapter) -> None:
    model = tiny.model("llama", adapter).train()
    expected = [gradients(model, kind) for kind in range(3)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    alone = [run(model, kind) for kind in range(3)]

    def train(thread: int) -> None:
        for number in range(thread, thread + 12):
            for ours, theirs in zip(gradients(model, number % 3), expected[number % 3], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)

    def infer(thread: int) -> None:
        for number in range(thread, thread + 60):
            logits, routing = run(model, number % 3)
            assert torch.equal(logits, alone[number % 3][0])
            assert routing == alone[number % 3][1]

    at_once(*(lambda job=job, thread=thread: job(thread) for thread in range(2) for job in (train, infer)))


@everything
def test_gradients_computed_by_another_thread(adapter) -> None:
    """As on a GPU, where each device has one for them."""
    model = tiny.model("llama", adapter).train()
    trained = [parameter for _, parameter in adapter_parameters(model)]
    expected = gradients(model, 1)
    model.activation_checkpointing_enable({"use_reentrant": False})
    total = total_loss(model, 1)
    (ours,) = at_once(lambda: torch.autograd.grad(total, trained))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("adapter", ["layer", "attention", "ffn"])
def test_a_pass_without_context_repeats_without_one(adapter) -> None:
    """The repetition of another pass, that had one, comes before its own."""
    model, ids = tiny.model("llama", adapter).train(), tiny.ids(2, 5)
    expected = None
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        without = model(ids, labels=ids, use_cache=False).loss
        context = context_of(1)
        total = without + model(ids, labels=ids, use_cache=False, adapter_context=context).loss
        ours = torch.autograd.grad(total, [parameter for _, parameter in adapter_parameters(model)])
        if expected is not None:
            for one, other in zip(ours, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        expected = ours
