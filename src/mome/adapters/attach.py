"""Put adapters on any Hugging Face causal language model, in place."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from mome.adapters.base import AdapterConfig
from mome.adapters.generation import enter_decoder
from mome.adapters.hooks import connect
from mome.adapters.inventory import adapter_modules, adapter_parameters
from mome.adapters.layers import check_context_arrives, decoder_layers, model_width
from mome.errors import MomeError

Model = TypeVar("Model", bound=nn.Module)


def attach(model: Model, config: AdapterConfig) -> Model:
    """Attach the adapters of ``config`` to every decoder layer of ``model`` and freeze all its other parameters.

    No module is replaced or wrapped, so generation, caches, beam search, gradient checkpointing, copying, saving and
    attributes of the layers work as before. The adapters are sub-modules that forward hooks call, ``layers.N.mome``
    (or ``layers.N.self_attn.mome``, ``layers.N.mlp.mome``) and ``layers.N.self_attn.q_proj.lora``, in the dtype and on
    the device of their layer (if its weights are quantised, in the dtype of its norms); this may be the meta device.
    Their output is zero at first, so the model computes exactly what it did.

    Afterwards ``requires_grad`` is true for adapter parameters and false for all others. A model may have both a
    ``mome`` and a ``lora`` adapter. Pass ``adapter_context=AdapterContext(...)`` to the model's ``forward`` to mask
    tokens, to collect routing statistics and to name the groups of a LoRA with a specific part; everything else works
    without it. ``generate`` does not take it: see :func:`mome.adapters.use_context`.

    Gradient checkpointing must be non-reentrant, the default of Transformers 5: the reentrant kind runs the forward
    pass without gradients, so the load-balancing loss would have none; experts refuse it. Threads may share the
    model; each forward pass has its own context.

    Args:
        model: a causal language model whose ``get_decoder()`` has ``layers``, such as Llama, Mistral, Qwen
            or Gemma.
        config: the adapter's options.

    Returns:
        ``model`` itself.

    Raises:
        MomeError: the model has no decoder layers, lacks a module that the configuration names, does not pass the
            adapters' context to it, or has an adapter of this kind already. The model is unchanged then.
        ValueError: ``config.attach`` added no adapter named after its kind.
    """
    layers = decoder_layers(model)
    if config.kind in _kinds(model):
        raise MomeError(
            f"a {config.kind} adapter is attached to this model already: load the model anew to attach another"
        )
    first = not hasattr(layers[0], "adapter_slot")
    if config.context_at is not None:
        check_context_arrives(model, model_width(layers[0]), below=config.context_at == "attention")
    config.attach(layers)
    if config.kind not in _kinds(model):  # its parameters would not be saved
        raise ValueError(f"{type(config).__name__}.attach must add Adapters as sub-modules named '{config.kind}'")
    if first:  # one hook for all adapters
        handle = model.get_decoder().register_forward_pre_hook(enter_decoder, with_kwargs=True)  # type: ignore[operator]
        connect(layers[0], 0).hooks.append(handle)
    model.requires_grad_(False)
    for _, parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    return model


def _kinds(model: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in adapter_modules(model)}
