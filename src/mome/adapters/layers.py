"""The decoder layers of a language model, and whether the adapters' context reaches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mome.adapters.context import CONTEXT_KEY, AdapterContext
from mome.errors import MomeError

_COMPUTED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model; raises :class:`MomeError` where there are none."""
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
    """Ends a trial as soon as it has shown enough."""


def check_context_arrives(model: nn.Module, width: int, below: bool) -> None:
    """See whether the model hands the adapters' context on to its layers and, ``below``, these to their attention.

    One token is read up to the first layer or its self-attention. Not every layer hands on keywords that it does not
    know, and when gradient checkpointing repeats a layer's ``forward``, that is the context's only way in.

    Args:
        model: a causal language model.
        width: of a token's vector there.
        below: look at the first layer's ``self_attn``, not at the layer.

    Raises:
        MomeError: the context or a vector for each token does not come there.
    """
    layer = decoder_layers(model)[0]
    module = getattr(layer, "self_attn", None) if below else layer
    arrived = False

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal arrived
        arrived = CONTEXT_KEY in kwargs and hidden_states(args, kwargs).shape == (1, 1, width)
        raise _Reached

    if isinstance(module, nn.Module):
        handle = module.register_forward_pre_hook(see, with_kwargs=True, prepend=True)
        device = model.get_input_embeddings().weight.device  # type: ignore[operator]
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        # A finished mask: to make one, Transformers looks at values, and a model on the meta device has none.
        mask = torch.zeros(1, 1, 1, 1, device=device)
        options = {"attention_mask": mask, "position_ids": token, CONTEXT_KEY: AdapterContext()}
        try:
            with torch.no_grad():
                model.get_decoder()(token, use_cache=False, **options)  # type: ignore[operator]
        except (_Reached, Exception):  # whatever a model makes of an unknown keyword
            pass
        finally:
            handle.remove()
    if not arrived:
        lack = "does not hand on what adapters are told" if below else "is not told what its adapters need to know"
        raise MomeError(
            f"this adapter cannot be attached to {type(model).__name__}: its {type(layer).__name__} {lack}; "
            "give a causal language model such as Llama, Mistral, Qwen or Gemma"
        )


def hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> Tensor:
    """A layer's or its part's input, whether it was passed by position or by name."""
    found: Tensor = args[0] if args else next(kwargs[name] for name in ("hidden_states", *names) if name in kwargs)
    return found


def submodule(layer: nn.Module, name: str, hint: str = "") -> nn.Module:
    """The part of a layer of this name, the layer itself without one; raises :class:`MomeError` if there is none."""
    module = getattr(layer, name, None) if name else layer
    if not isinstance(module, nn.Module):
        raise MomeError(f"the decoder layer {type(layer).__name__} has no {name} for this adapter{hint}")
    return module


def model_width(layer: nn.Module) -> int:
    """Model width: the input width of the layer's first linear layer, the query projection or its like."""
    return next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))


def adapter_factory(module: nn.Module, *around: nn.Module) -> dict[str, Any]:
    """Device and dtype for an adapter of ``module``, where its weights are quantised the dtype of what is around it."""
    dtypes = (p.dtype for part in (module, *around) for p in part.parameters() if p.dtype in _COMPUTED)
    return {"device": next(module.parameters()).device, "dtype": next(dtypes, torch.get_default_dtype())}
