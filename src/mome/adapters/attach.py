"""Put adapters on any Hugging Face causal language model, in place, change between them, and take them off.

A model can have several adapters by name. The modules of those at work are in the model; the others rest outside of it,
in :class:`Roster`. So whatever looks through a model, its ``state_dict`` included, sees the adapters at work alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from mome.adapters.base import Adapter, AdapterConfig
from mome.adapters.context import AdapterSlot
from mome.adapters.generation import enter_decoder
from mome.adapters.hooks import connect
from mome.adapters.inventory import adapter_modules, adapter_parameters
from mome.adapters.layers import check_context_arrives, decoder_layers, model_width
from mome.errors import MomeError, listed, shortened

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Attached:
    """An adapter of a model.

    Attributes:
        config: its options.
        modules: its modules, by their names inside the decoder layers, such as ``0.self_attn.mome``.
        active: whether it is at work.
    """

    config: AdapterConfig
    modules: dict[str, Adapter]
    active: bool = True


@dataclass
class Roster:
    """The adapters of a model by name, kept on its decoder.

    Attributes:
        trainable: names of the model's parameters that required a gradient before there were adapters.
        adapters: by name.
    """

    trainable: frozenset[str]
    adapters: dict[str, Attached] = field(default_factory=dict)


def attach(model: Model, config: AdapterConfig, name: str | None = None) -> Model:
    """Attach the adapters of ``config`` to every decoder layer of ``model`` and freeze all its other parameters.

    No module is replaced or wrapped, so generation, caches, beam search, gradient checkpointing, copying, saving and
    attributes of the layers work as before. The adapters are sub-modules that forward hooks call, ``layers.N.mome``
    (or ``layers.N.self_attn.mome``, ``layers.N.mlp.mome``) and ``layers.N.self_attn.q_proj.lora``, in the dtype and on
    the device of their layer (if its weights are quantised, in the dtype of its norms); this may be the meta device.
    Their output is zero at first, so the model computes exactly what it did.

    Afterwards ``requires_grad`` is true for adapter parameters and false for all others. A model may have both a
    ``mome`` and a ``lora`` adapter at work; one of a kind that is at work already takes its place, see
    :func:`set_adapters`. Pass ``adapter_context=AdapterContext(...)`` to the model's ``forward`` to mask
    tokens, to collect routing statistics and to name the groups of a LoRA with a specific part; everything else works
    without it. ``generate`` does not take it: see :func:`mome.adapters.use_context`.

    Gradient checkpointing must be non-reentrant, the default of Transformers 5: the reentrant kind runs the forward
    pass without gradients, so the load-balancing loss would have none; experts refuse it. Threads may share the
    model; each forward pass has its own context.

    Args:
        model: a causal language model whose ``get_decoder()`` has ``layers``, such as Llama, Mistral, Qwen
            or Gemma.
        config: the adapter's options.
        name: of the adapter, for a model with several; by default its kind.

    Returns:
        ``model`` itself.

    Raises:
        MomeError: the model has no decoder layers, lacks a module that the configuration names, does not pass the
            adapters' context to it, or has an adapter of this name already. The model is unchanged then.
        ValueError: ``config.attach`` added no adapter named after its kind.
    """
    layers = decoder_layers(model)
    roster = _roster(model)
    known = {} if roster is None else roster.adapters
    if name is None and config.kind in known:
        raise MomeError(f"a {config.kind} adapter is attached to this model already: give this one a name of its own")
    name = config.kind if name is None else name
    if name in known:
        raise MomeError(f"an adapter named {shortened(name)} is attached to this model already: choose another name")
    first = not hasattr(layers[0], "adapter_slot")
    if config.context_at is not None:
        check_context_arrives(model, model_width(layers[0]), below=config.context_at == "attention")
    before = [entry for entry in known.values() if entry.active and entry.config.kind == config.kind]
    trainable = frozenset(key for key, parameter in model.named_parameters() if parameter.requires_grad)
    for entry in before:
        _rest(layers, entry)
    try:
        config.attach(layers)
    except MomeError:
        for entry in before:
            _work(layers, entry)
        raise
    modules = {key: module for key, module in adapter_modules(layers) if key.rpartition(".")[2] == config.kind}
    if not modules:  # its parameters would not be saved
        raise ValueError(f"{type(config).__name__}.attach must add Adapters as sub-modules named '{config.kind}'")
    if first:  # one hook for all adapters
        handle = model.get_decoder().register_forward_pre_hook(enter_decoder, with_kwargs=True)  # type: ignore[operator]
        connect(layers[0], 0).hooks.append(handle)
    if roster is None:
        roster = model.get_decoder().adapter_roster = Roster(trainable)  # type: ignore[operator]
    roster.adapters[name] = Attached(config, modules)
    model.requires_grad_(False)
    for _, parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    return model


def adapter_names(model: nn.Module) -> dict[str, bool]:
    """Names of the adapters of ``model`` in the order they were attached, with whether they are at work."""
    roster = _roster(model)
    return {} if roster is None else {name: entry.active for name, entry in roster.adapters.items()}


def set_adapters(model: Model, *names: str) -> Model:
    """Let these adapters of ``model`` work, at most one of each kind, and no others; without names, none.

    Without an adapter at work the model computes exactly what it did before the first was attached. An adapter that
    rests keeps its parameters (the same objects); the model's device when it works again counts. No other thread may
    run the model meanwhile.

    Raises:
        MomeError: there is no adapter of such a name, or two are of one kind. The model is unchanged then.
        ValueError: an adapter does not list its hooks.
    """
    chosen = {name: attached(model, name) for name in names}
    kinds = [entry.config.kind for entry in chosen.values()]
    if len(set(kinds)) < len(kinds):
        raise MomeError(f"of the adapters {listed(names)} two are of one kind: one of each can be at work")
    layers, roster = decoder_layers(model), _roster(model)
    for name, entry in {} if roster is None else roster.adapters.items():
        if entry.active and name not in chosen:
            _rest(layers, entry)
    for entry in chosen.values():
        if not entry.active:
            _work(layers, entry)
    return model


def detach(model: Model, *names: str) -> Model:
    """Take adapters off ``model`` and forget them: those named, or all.

    When the last is gone, the model is the plain one that it was: its modules, hooks, outputs, the names in its state
    dict, and which of its parameters require a gradient.

    Raises:
        MomeError: there is no adapter of such a name. The model is unchanged then.
        ValueError: an adapter does not list its hooks.
    """
    for name in names:
        attached(model, name)
    roster = _roster(model)
    if roster is None:
        return model
    layers = decoder_layers(model)
    for name in names or tuple(roster.adapters):
        entry = roster.adapters.pop(name)
        if entry.active:
            _rest(layers, entry)
    if not roster.adapters:
        take_off(model)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key in roster.trainable)
    return model


def attached(model: nn.Module, name: str | None = None) -> Attached:
    """The adapter of this name; without a name, the one that is at work.

    Raises:
        MomeError: there is no such adapter, or several are at work and none is named.
    """
    if name is not None and not isinstance(name, str):
        raise MomeError(f"{shortened(name)} is no adapter's name: give names one by one, as texts")
    roster = _roster(model)
    known = {} if roster is None else roster.adapters
    if name is not None and name not in known:
        have = f"its adapters are {listed(list(known))}" if known else "it has none"
        raise MomeError(f"this model has no adapter named {shortened(name)}: {have}")
    candidates = [entry for key, entry in known.items() if key == name or (name is None and entry.active)]
    if len(candidates) != 1:
        number, names = "several adapters are" if candidates else "no adapter is", listed(list(known))
        raise MomeError(f"{number} at work in this model: " + (f"name one of {names}" if known else "attach one first"))
    return candidates[0]


def take_off(model: nn.Module) -> None:
    """Remove all adapters in ``model``, named or not, with their hooks and slots."""
    found = list(adapter_modules(model))
    for name, adapter in found:
        _remove(model, name, adapter)
    for module in model.modules():
        slot = module.__dict__.pop("adapter_slot", None)
        if isinstance(slot, AdapterSlot):
            slot.disconnect()
        module.__dict__.pop("adapter_roster", None)


def _roster(model: nn.Module) -> Roster | None:
    get_decoder = getattr(model, "get_decoder", None)
    roster = getattr(get_decoder(), "adapter_roster", None) if callable(get_decoder) else None
    return roster if isinstance(roster, Roster) else None


def _rest(layers: nn.ModuleList, entry: Attached) -> None:
    """Take the modules of an adapter out of the model."""
    if not all(module.hooks for module in entry.modules.values()):
        raise ValueError(f"{type(entry.config).__name__}.attach must append its hooks to Adapter.hooks")
    for name, module in entry.modules.items():
        _remove(layers, name, module)
    entry.active = False


def _work(layers: nn.ModuleList, entry: Attached) -> None:
    """Put the modules of an adapter back into the model, in place of new ones, whose hooks they take over."""
    with torch.random.fork_rng(devices=[]):  # what the new ones draw must not show
        entry.config.attach(layers)
    for name, module in entry.modules.items():
        fresh = layers.get_submodule(name)
        assert isinstance(fresh, Adapter)
        module.slot, module.hooks = fresh.slot, fresh.hooks
        parent, _, kind = name.rpartition(".")
        frozen = layers.get_submodule(parent)
        frozen.add_module(kind, module.to(next(fresh.parameters()).device).train(frozen.training))
    entry.active = True


def _remove(model: nn.Module, name: str, adapter: Adapter) -> None:
    for hook in adapter.hooks:
        hook.remove()
    adapter.hooks, adapter.slot = [], None
    parent, _, kind = name.rpartition(".")
    delattr(model.get_submodule(parent), kind)
