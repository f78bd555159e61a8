"""Put adapters on any Hugging Face causal language model, in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from mome.adapters import hooks
from mome.adapters.config import AdapterConfig, LoraAdapterConfig, MomeAdapterConfig
from mome.adapters.context import AdapterSlot
from mome.adapters.experts import ExpertBank
from mome.adapters.generation import enter_decoder
from mome.adapters.inventory import adapter_modules, adapter_parameters
from mome.adapters.layers import check_context_arrives, decoder_layers
from mome.adapters.lora import ScaleLora
from mome.errors import MomeError

Model = TypeVar("Model", bound=nn.Module)

_COMPUTED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def attach(model: Model, config: AdapterConfig) -> Model:
    """Attach the adapters of ``config`` to every decoder layer of ``model`` and freeze all else in it.

    The model stays what it is: no module is replaced or wrapped, so generation, caches, beam search,
    gradient checkpointing, copying, saving and attributes of the layers work as before. The adapters are
    sub-modules that forward hooks call, ``layers.N.mome`` (or ``layers.N.self_attn.mome``,
    ``layers.N.mlp.mome``) and ``layers.N.self_attn.q_proj.lora``, in the dtype and on the device of their
    layer (the dtype of its norms, where its weights are quantised); they may be on the meta device. At first
    their output is zero, so the model computes exactly what it did.

    Afterwards ``requires_grad`` is true for adapter parameters and false for all others. A ``mome`` and a
    ``lora`` adapter may stand together. Pass ``adapter_context=AdapterContext(...)`` to the model's
    ``forward`` to mask tokens, to collect routing statistics and to name the groups of a LoRA with a specific
    part; without it everything else works. ``generate`` does not take it: see
    :func:`mome.adapters.use_context`.
    Gradient checkpointing must be the non-reentrant kind, the default of Transformers 5: the reentrant one
    runs the forward pass without gradients, and the load-balancing loss would have none; experts refuse it.
    Threads may share the model, each pass with its own context.

    Args:
        model: a causal language model whose ``get_decoder()`` has ``layers``, such as Llama, Mistral, Qwen
            or Gemma.
        config: what to attach.

    Returns:
        ``model`` itself.

    Raises:
        MomeError: the model has no decoder layers, lacks a module that the configuration names or does not hand
            the adapters' context on to it, or an adapter of this kind is attached already. The model is unchanged
            then.
    """
    layers = decoder_layers(model)
    kind: type[nn.Module] = ExpertBank if isinstance(config, MomeAdapterConfig) else ScaleLora
    if any(isinstance(module, kind) for _, module in adapter_modules(model)):
        name = "mome" if kind is ExpertBank else "lora"
        raise MomeError(f"a {name} adapter is attached to this model already: load the model anew to attach another")
    first = not hasattr(layers[0], "adapter_slot")
    if isinstance(config, MomeAdapterConfig):
        check_context_arrives(model, _width(layers[0]), below=config.placement != "layer")
        _attach_banks(layers, config)
    else:
        if config.specific:
            check_context_arrives(model, _width(layers[0]), below=True)
        attach_lora(layers, config)
    if first:  # one hook, whatever is attached later
        handle = model.get_decoder().register_forward_pre_hook(enter_decoder, with_kwargs=True)  # type: ignore[operator]
        _connect(layers[0], 0).hooks.append(handle)
    model.requires_grad_(False)
    for _, parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    return model


def _attach_banks(layers: nn.ModuleList, config: MomeAdapterConfig) -> None:
    name = {"layer": "", "attention": "self_attn", "ffn": "mlp"}[config.placement]
    targets = [_submodule(layer, name) for layer in layers]
    if config.placement == "layer" and config.normalize_input:
        for layer in layers:
            _submodule(layer, "input_layernorm", hint="; set normalize_input to false")
    for index, (layer, target) in enumerate(zip(layers, targets, strict=True)):
        bank = ExpertBank(_width(layer), config, **_like(layer))
        bank.slot = _connect(layer, index)
        target.add_module("mome", bank)
        # In front of hooks that are there already: those that record hidden states must see the sum.
        if config.placement == "layer":
            target.register_forward_hook(hooks.add_layer_bank, with_kwargs=True, prepend=True)
        elif config.placement == "attention":
            target.register_forward_hook(hooks.add_attention_bank, with_kwargs=True, prepend=True)
        else:
            target.register_forward_hook(hooks.add_ffn_bank, with_kwargs=True, prepend=True)
        if config.placement != "layer":
            layer.register_forward_pre_hook(hooks.refuse_reentrant)


def attach_lora(layers: Iterable[nn.Module], config: LoraAdapterConfig) -> None:
    """Attach low-rank updates to Transformer layers of any kind, an encoder's for instance.

    Nothing is frozen or made trainable.

    Raises:
        MomeError: a layer lacks a linear layer that the configuration names; the layers are unchanged then.
    """
    layers = list(layers)
    found = [_linears(layer, config.targets) for layer in layers]
    for index, (layer, linears) in enumerate(zip(layers, found, strict=True)):
        slot = _connect(layer, index)
        for linear in linears:
            lora = ScaleLora(linear.in_features, linear.out_features, config, **_like(linear, layer))
            lora.slot = slot
            linear.add_module("lora", lora.train(linear.training))
            lora.hook = linear.register_forward_hook(hooks.add_lora, prepend=True)


def _connect(layer: nn.Module, index: int) -> AdapterSlot:
    """The layer's slot, made with the hooks that fill it where there is none yet."""
    slot = getattr(layer, "adapter_slot", None)
    if isinstance(slot, AdapterSlot):
        return slot
    slot = AdapterSlot(index)
    layer.adapter_slot = slot  # type: ignore[assignment]
    slot.hooks.append(layer.register_forward_pre_hook(hooks.enter_layer, with_kwargs=True))
    slot.hooks.append(layer.register_forward_hook(hooks.leave_layer))
    attention = getattr(layer, "self_attn", None)
    if isinstance(attention, nn.Module):
        attention.adapter_slot = slot  # type: ignore[assignment]
        slot.hooks.append(attention.register_forward_pre_hook(hooks.enter_attention, with_kwargs=True))
    return slot


def _submodule(layer: nn.Module, name: str, hint: str = "") -> nn.Module:
    module = getattr(layer, name, None) if name else layer
    if not isinstance(module, nn.Module):
        raise MomeError(f"the decoder layer {type(layer).__name__} has no {name} for this adapter{hint}")
    return module


def _linears(layer: nn.Module, targets: tuple[str, ...]) -> list[nn.Linear]:
    linears: dict[str, list[nn.Linear]] = {}
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear) and ".lora." not in name:
            linears.setdefault(name.rpartition(".")[2], []).append(module)
    missing = [name for name in targets if name not in linears]
    if missing:
        raise MomeError(
            f"the decoder layer {type(layer).__name__} has no linear layer {', '.join(missing)}: "
            f"its own are {', '.join(linears)}"
        )
    several = [name for name in targets if len(linears[name]) > 1]
    if several:
        raise MomeError(
            f"the decoder layer {type(layer).__name__} has {len(linears[several[0]])} linear layers {several[0]}: "
            "targets must name one each"
        )
    return [linears[name][0] for name in targets]


def _width(layer: nn.Module) -> int:
    """Model width: the input width of the layer's first linear layer, the query projection or its like."""
    return next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))


def _like(module: nn.Module, *around: nn.Module) -> dict[str, Any]:
    """Device of ``module``, and the dtype that it computes in: quantised weights have none, its surroundings do."""
    dtypes = (p.dtype for part in (module, *around) for p in part.parameters() if p.dtype in _COMPUTED)
    return {"device": next(module.parameters()).device, "dtype": next(dtypes, torch.get_default_dtype())}
