"""LoRA and routers specific to rates (LoRA-SS, -MSS) or to tasks (Omni-AVSR-T, -ST) inside the whole recogniser."""

from __future__ import annotations

import functools

import pytest
import torch

from mome.config import MomeConfig
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates, RateSet
from tests.model.build import make_config, make_model, one_clip, raw_inputs, transcripts
from tests.model.test_batching import MIXED, check

ALL = [Rates(a, v) for a in (4, 16) for v in (2, 5)]
ALL += [Rates(4, None), Rates(16, None), Rates(None, 2), Rates(None, 5)]
RANK, SCALE = 2, 0.5
GROUPED = {
    f"{'MS' if shared else ''}S-{by}": {
        "type": "lora",
        "bottleneck": RANK,
        "scale": SCALE,
        "shared": shared,
        "specific": by,
    }
    for shared in (False, True)
    for by in ("rates", "tasks")
}
ROUTED = {
    f"routers-{by}": {"type": "mome", "routed_experts": 5, "top_k": 2, "bottleneck": 2, "routers": by}
    for by in ("rates", "tasks")
}
grouped = pytest.mark.parametrize("kind", GROUPED)
either = pytest.mark.parametrize("kind", GROUPED | ROUTED)
CLIPS = [(133, 34), (64, 16)]
LABELS = transcripts([4, 2])


def new_model(kind: str, **options) -> MomeForSpeechRecognition:
    return make_model("llama", (GROUPED | ROUTED)[kind], **options)


@functools.cache
def looked_at(kind: str) -> MomeForSpeechRecognition:
    return new_model(kind)


def group_of(kind: str, rates: Rates) -> int:
    return ["avsr", "asr", "vsr"].index(rates.task) if kind.endswith("tasks") else ALL.index(rates)


def updates(model: MomeForSpeechRecognition) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if ".lora." in name}


def plain(kind: str, group: int) -> MomeForSpeechRecognition:
    """A model with one LoRA for everything: the shared update and that of one group as a single wider one."""
    whole, shared = looked_at(kind), GROUPED[kind]["shared"]
    source = updates(whole)
    model = make_model("llama", {"type": "lora", "bottleneck": RANK * (1 + shared), "scale": SCALE})
    model.load_state_dict({k: v for k, v in whole.state_dict().items() if ".lora." not in k}, strict=False)
    for name, value in updates(model).items():
        up = name.endswith("up.weight")
        part = name.removesuffix("up.weight" if up else "down.weight")
        pieces = [source[f"{part}specific.{'up' if up else 'down'}"][group]]
        if shared:
            pieces.append(source[name])
        value.data.copy_(torch.cat(pieces, dim=1 if up else 0))
    return model


@torch.no_grad()
@grouped
def test_each_group_is_a_model_of_its_own(kind):
    model, inputs = looked_at(kind), raw_inputs(CLIPS)
    groups = sorted({group_of(kind, rates) for rates in ALL})
    assert len(groups) == (3 if kind.endswith("tasks") else 8)
    logits = {rates: model(**inputs, labels=LABELS, rates=rates).logits for rates in ALL}
    for group in groups:
        one = plain(kind, group)
        for rates in ALL:
            other = one(**inputs, labels=LABELS, rates=rates).logits
            difference = (other - logits[rates]).abs().max()
            assert (difference < 1e-4) if group_of(kind, rates) == group else (difference > 1e-2), (group, rates)


@torch.no_grad()
@grouped
def test_a_changed_update_changes_its_own_rates_alone(kind):
    model, inputs = new_model(kind), raw_inputs(CLIPS)
    before = {rates: model(**inputs, labels=LABELS, rates=rates).logits for rates in ALL}
    changed = group_of(kind, Rates(16, None))
    for name, value in updates(model).items():
        if name.endswith("specific.up"):
            value[changed] += 1
    for rates, logits in before.items():
        same = torch.equal(model(**inputs, labels=LABELS, rates=rates).logits, logits)
        assert same == (group_of(kind, rates) != changed)


@torch.no_grad()
@pytest.mark.parametrize("kind", ROUTED)
def test_each_router_is_that_of_its_rates_alone(kind):
    model, inputs = looked_at(kind), raw_inputs(CLIPS)
    logits = {rates: model(**inputs, labels=LABELS, rates=rates).logits for rates in ALL}
    for changed in sorted({group_of(kind, rates) for rates in ALL}):
        other = new_model(kind)
        for name, value in other.named_parameters():
            if name.endswith(".mome.routers"):
                value[changed] *= -1
        for rates, before in logits.items():
            same = torch.equal(other(**inputs, labels=LABELS, rates=rates).logits, before)
            assert same == (group_of(kind, rates) != changed), (changed, rates)


@either
def test_mixed_batches_equal_one_clip_after_the_other(kind):
    check(looked_at(kind), MIXED)


@torch.no_grad()
@grouped
def test_beams_of_a_mixed_batch(kind):
    model, (lengths, rates, _) = looked_at(kind), zip(*MIXED, strict=True)
    inputs = raw_inputs(list(lengths))
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "do_sample": False}
    together = model.generate(**inputs, rates=list(rates), **options)
    for index, rate in enumerate(rates):
        alone = plain(kind, group_of(kind, rate)).generate(**one_clip(inputs, index), rates=rate, **options)
        assert together[2 * index : 2 * index + 2, : alone.shape[1]].tolist() == alone.tolist()


@grouped
def test_training_reaches_every_group_by_its_own_rates(kind):
    model, inputs = new_model(kind), raw_inputs(CLIPS)
    model.train()
    trained = [Rates(4, 2), Rates(None, 5)]
    model(**inputs, labels=LABELS, matryoshka=trained).loss.backward()
    reached = {group_of(kind, rates) for rates in trained}
    count = 0
    for name, value in updates(model).items():
        if ".specific." in name:
            assert {group for group, part in enumerate(value.grad) if part.any()} == reached
            count += 1
        else:
            assert value.grad.any()
    assert count == 3 * 2 * 2, "three layers, two targets, two matrices"
    model.zero_grad()
    model(**inputs, labels=LABELS, matryoshka=ALL).loss.backward()
    assert all(part.any() for name, value in updates(model).items() if ".specific." in name for part in value.grad)


@either
@pytest.mark.parametrize("mixed", [False, True])
def test_gradient_checkpointing_changes_nothing(kind, mixed):
    results = []
    for checkpointing in (False, True):
        model = new_model(kind)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        assert model.language_model.model.layers[0].training == checkpointing
        rates = {"rates": [Rates(16, None), Rates(4, 5)]} if mixed else {"matryoshka": ALL}
        loss = model(**raw_inputs(CLIPS), labels=LABELS, **rates).loss
        loss.backward()
        results.append((loss, {name: value.grad for name, value in model.named_parameters() if value.requires_grad}))
    (loss, gradients), (same, others) = results
    torch.testing.assert_close(loss, same)
    for name, gradient in gradients.items():
        if gradient is None:  # the projector of a rate that took no part
            assert others[name] is None
        else:
            torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@either
def test_saved_and_loaded(kind, tmp_path):
    model, inputs = looked_at(kind), raw_inputs(CLIPS)
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert loaded.config.adapter_groups == model.config.adapter_groups
    mixed = [Rates(None, 2), Rates(16, 5)]
    actual, other = (one(**inputs, labels=LABELS, rates=mixed).logits for one in (model, loaded))
    assert torch.equal(actual, other)


@pytest.mark.parametrize(
    ("by", "tasks", "expected"),
    [
        ("rates", ["avsr", "asr", "vsr"], ["4,2", "4,5", "16,2", "16,5", "4,-", "16,-", "-,2", "-,5"]),
        ("rates", ["vsr", "asr"], ["4,-", "16,-", "-,2", "-,5"]),
        ("rates", ["avsr"], ["4,2", "4,5", "16,2", "16,5"]),
        ("tasks", ["vsr", "avsr"], ["avsr", "vsr"]),
        ("tasks", ["avsr", "asr", "vsr"], ["avsr", "asr", "vsr"]),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_groups_are_those_of_the_tasks_in_a_fixed_order(by, tasks, expected, turned):
    """Weights are found by position, so the order in which a recipe names rates or tasks must not matter."""
    options = {"tasks": tasks[::-1], "audio_rates": (16, 4), "video_rates": (5, 2)} if turned else {"tasks": tasks}
    config = make_config(adapter={"type": "lora", "bottleneck": 2, "specific": by}, **options)
    assert [str(group) for group in config.adapter_groups] == expected
    assert config.adapter_config.specific == len(expected)
    again = MomeConfig.from_dict(config.to_dict())
    assert again.adapter_groups == config.adapter_groups
    routers = make_config(adapter={"type": "mome", "routers": by}, **options)
    assert (routers.adapter_groups, routers.adapter_config.routers) == (config.adapter_groups, len(expected))
    for number, group in enumerate(config.adapter_groups):
        rates = [group] if by == "rates" else [rates for rates in ALL if rates.task == group]
        assert [config.adapter_group(one) for one in rates] == [number] * len(rates)


@pytest.mark.parametrize(
    "adapter", [None, {"type": "mome"}, {"type": "mome", "routers": 1}, {"type": "lora", "bottleneck": 2}]
)
def test_other_adapters_have_no_groups(adapter):
    assert make_config(adapter=adapter).adapter_groups == []


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"type": "lora", "bottleneck": 2, "specific": "speakers"}, "specific = 'speakers' .*: choose rates or tasks"),
        ({"type": "lora", "bottleneck": 2, "specific": 3}, "specific = 3 .*: choose rates or tasks"),
        ({"type": "lora", "bottleneck": 2, "shared": False}, "neither shared nor specific"),
        ({"type": "mome", "specific": "rates"}, "'specific' is unknown for type mome"),
        ({"type": "mome", "routers": "speakers"}, "routers = 'speakers' .*: choose rates or tasks"),
        ({"type": "mome", "routers": 3}, "routers = 3 .*: choose rates or tasks"),
        ({"type": "lora", "bottleneck": 2, "routers": "rates"}, "'routers' is unknown for type lora"),
        ({"type": "lora", "bottleneck": 2, "specfic": "rates"}, "did you mean specific"),
    ],
)
def test_groups_that_cannot_be_are_refused(adapter, message):
    with pytest.raises(MomeError, match=message):
        _ = make_config(adapter=adapter).adapter_config


def test_a_task_that_a_model_was_not_made_for():
    """SS for AVSR alone has no update for sound alone."""
    rate_set = RateSet((4, 16), (2, 5), ("avsr",))
    assert Rates(4, 2) in rate_set
    assert Rates(4, None) not in rate_set
    text = r"rates \(4,-\) ask for asr, which this model was not made for: .* for avsr only"
    with pytest.raises(MomeError, match=text):
        rate_set.check(Rates(4, None))
    with pytest.raises(MomeError, match=r"\(8,-\) are not in this model's rate set"):
        rate_set.check(Rates(8, None))
    model = new_model("S-rates", tasks=["avsr"])
    assert model.config.rate_set == rate_set
    for call in (
        lambda: model(**raw_inputs(CLIPS), labels=LABELS, rates=Rates(4, None)),
        lambda: model.generate(**raw_inputs(CLIPS), rates=Rates(4, None)),
    ):
        with pytest.raises(MomeError, match=text):
            call()


def test_one_pair_of_rates_has_one_router():
    model = make_model("llama", ROUTED["routers-rates"], audio_rates=(4,), video_rates=(2,), tasks=["avsr"])
    shared = make_model(
        "llama", {**ROUTED["routers-rates"], "routers": 1}, audio_rates=(4,), video_rates=(2,), tasks=["avsr"]
    )
    assert model.state_dict().keys() == shared.state_dict().keys()
    logits = [one(**raw_inputs(CLIPS), labels=LABELS, rates=Rates(4, 2)).logits for one in (model, shared)]
    assert torch.equal(*logits)


def test_routers_of_rates_need_listed_rates():
    with pytest.raises(MomeError, match="adapter routers=rates has a part for each listed rate, a resampler takes any"):
        make_config(adapter=ROUTED["routers-rates"], connector={"type": "resampler", "queries": 6, "heads": 4})
