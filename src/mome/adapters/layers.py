"""The decoder layers of a language model, and whether the adapters' context reaches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mome.adapters.context import CONTEXT_KEY, AdapterContext
from mome.errors import MomeError

_COMPUTED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model; raises :class:`MomeError` if it has none."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not layers:
        raise MomeError(
            f"adapters cannot be attached to {type(model).__name__}: it has no get_decoder().layers; "
            "give a causal language model such as Llama, Mistral, Qwen or Gemma"
        )
    return layers


class _Reached(BaseException):  # not an Exception, which a model might catch
    """Ends the trial once the module is reached."""


def check_context_arrives(model: nn.Module, width: int, below: bool) -> None:
    """Check that the adapters' context reaches the decoder layers, or with ``below`` their self-attention.

    The model is run on one token up to the first layer or its self-attention. Not every layer passes on keywords that
    it does not know, and when gradient checkpointing repeats a layer's ``forward``, the context has no other way in.

    Args:
        model: a causal language model.
        width: width of the hidden states.
        below: check the first layer's ``self_attn``, not the layer.

    Raises:
        MomeError: the context, or a hidden state for each token, does not reach the module.
    """
    layer = decoder_layers(model)[0]
    module = getattr(layer, "self_attn", None) if below else layer
    arrived = False

    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal arrived
        arrived = CONTEXT_KEY in kwargs and hidden_states(args, kwargs).shape == (1, 1, width)
        raise _Reached

    if isinstance(module, nn.Module):
        handle = module.register_forward_pre_hook(check, with_kwargs=True, prepend=True)
        device = model.get_input_embeddings().weight.device  # type: ignore[operator]
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        # Transformers would make a mask from values, which a model on the meta device does not have.
        mask = torch.zeros(1, 1, 1, 1, device=device)
        options = {"attention_mask": mask, "position_ids": token, CONTEXT_KEY: AdapterContext()}
        try:
            with torch.no_grad():
                model.get_decoder()(token, use_cache=False, **options)  # type: ignore[operator]
        except (_Reached, Exception):  # a model may refuse an unknown keyword in any way
            pass
        finally:
            handle.remove()
    if not arrived:
        lack = "does not pass the adapters' context on" if below else "does not receive the adapters' context"
        raise MomeError(
            f"this adapter cannot be attached to {type(model).__name__}: its {type(layer).__name__} {lack}; "
            "give a causal language model such as Llama, Mistral, Qwen or Gemma"
        )


def hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> Tensor:
    """The input of a layer or of a part of it, passed by position, as ``hidden_states`` or as one of ``names``."""
    states: Tensor = args[0] if args else next(kwargs[name] for name in ("hidden_states", *names) if name in kwargs)
    return states


def submodule(layer: nn.Module, name: str, hint: str = "") -> nn.Module:
    """The layer's sub-module ``name``, or for ``""`` the layer itself; raises :class:`MomeError` if there is none."""
    module = getattr(layer, name, None) if name else layer
    if not isinstance(module, nn.Module):
        raise MomeError(f"the decoder layer {type(layer).__name__} has no {name} for this adapter{hint}")
    return module


def model_width(layer: nn.Module) -> int:
    """Model width: the input width of the layer's first linear layer, usually the query projection."""
    return next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))


def adapter_factory(module: nn.Module, *around: nn.Module) -> dict[str, Any]:
    """``device`` and ``dtype`` for an adapter of ``module``; if its weights are quantised, the dtype of ``around``."""
    dtypes = (p.dtype for part in (module, *around) for p in part.parameters() if p.dtype in _COMPUTED)
    return {"device": next(module.parameters()).device, "dtype": next(dtypes, torch.get_default_dtype())}
