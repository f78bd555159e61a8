"""The adapters of a model: modules, parameters, state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from mome.adapters.base import Adapter
from mome.errors import MomeError


def adapter_modules(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Name and module of every adapter in ``model``, in the order of its layers."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name, module


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and value of every adapter parameter, in the order of the layers."""
    for prefix, module in adapter_modules(model):
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapter part of ``model.state_dict()``: same names, detached tensors that share its memory.

    Parameters that several processes share out (FSDP2) are put together, so all of these must call this.
    """
    return {name: whole(parameter) for name, parameter in adapter_parameters(model)}


def whole(parameter: Tensor) -> Tensor:
    """A detached parameter; that of FSDP2 is put together by all its processes, which must call this."""
    values: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return values.detach()


def sharded(model: nn.Module) -> bool:
    """Whether several processes share out parameters of the model (FSDP2): each pass of it needs all of them."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def load_adapter_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the result of :func:`adapter_state_dict` into a model with the same adapters.

    Raises:
        MomeError: a name is missing or unknown, or a shape differs. The model is unchanged then.
    """
    own = dict(adapter_parameters(model))
    for what, names in (("lacks", own.keys() - state.keys()), ("has an unknown", state.keys() - own.keys())):
        if names:
            raise MomeError(f"the adapter state {what} {min(names)} ({len(names)} such): attach the same adapter")
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise MomeError(
                f"{name} has shape {tuple(state[name].shape)} in the adapter state and "
                f"{tuple(parameter.shape)} in the model: attach the same adapter"
            )
    for name, parameter in own.items():
        parameter.data.copy_(state[name])
