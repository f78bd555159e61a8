"""The interface of an adapter: its options, which attach and count it, and the module that they attach.

To add an adapter, write a subclass of :class:`AdapterConfig` and one of :class:`Adapter`; nothing else in the package
knows adapters by name. docs/extending.md has an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

from mome.adapters.context import AdapterContext, AdapterSlot
from mome.options import options_from_dict, register


class Adapter(nn.Module):
    """A trained module beside a frozen one, whose output is zero at first.

    It is a sub-module of the frozen module, named after the adapter's ``kind``: the keys of its parameters contain
    ``.KIND.``.

    Attributes:
        slot: holds the context of the running forward pass (:func:`mome.adapters.hooks.connect` makes it); ``None``
            for an adapter that needs none, or that is not attached.
        hooks: the hooks that call the module, for it to be taken off again; none if it is not attached.
    """

    slot: AdapterSlot | None = None

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[RemovableHandle] = []

    @property
    def context(self) -> AdapterContext | None:
        """The running forward pass's context; ``None`` if it has none, and outside of one."""
        return None if self.slot is None else self.slot.context


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: of the whole adapter, and of the part that one token uses."""

    total: int
    active: int


class AdapterConfig(ABC):
    """The options of an adapter. Subclasses are frozen dataclasses.

    A subclass gives the adapter's name: ``class LoraAdapterConfig(AdapterConfig, kind="lora")``. Configurations and
    recipes choose the adapter by this name, as the option ``type``.

    Attributes:
        kind: the name, also of the attached sub-modules; no module of a language model may have it.
        group_option: the option with the number of groups, which a recogniser has for ``"rates"`` or ``"tasks"``.
    """

    kind: ClassVar[str]
    group_option: ClassVar[str] = "specific"

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        """Register the adapter; raise ``ValueError`` if another one has its name."""
        super().__init_subclass__(**kwargs)
        register(ADAPTERS, kind, cls)
        cls.kind = kind

    @property
    def context_at(self) -> Literal["layer", "attention"] | None:
        """The module that must receive the context of a forward pass; ``None``: the adapter needs no context."""
        return None

    @property
    def groups(self) -> int:
        """Number of groups with parameters of their own; unless 0, a forward pass must name each sequence's group."""
        return 0

    @property
    def most_active(self) -> int:
        """Most routed experts that :attr:`AdapterContext.top_k` may activate for a token; 0 without routed experts."""
        return 0

    def idle_operations(self, language_model: Any, top_k: int) -> int:
        """Operations for one token whose result the gates of all but ``top_k`` routed experts set to zero.

        Args:
            language_model: as for :meth:`count`.
            top_k: routed experts active for the token.
        """
        return 0

    @abstractmethod
    def attach(self, layers: nn.ModuleList) -> None:
        """Add adapters to the decoder layers, as sub-modules named ``self.kind``; change nothing else.

        The handles of the hooks that call an adapter belong into its :attr:`Adapter.hooks`.

        :mod:`mome.model.cost` takes an adapter to cost the same for each token.

        Raises:
            MomeError: a layer lacks a module that the adapter needs. The layers are unchanged then.
        """

    @abstractmethod
    def count(self, language_model: Any) -> ParameterCount:
        """Count the parameters in all layers.

        Args:
            language_model: the model's Hugging Face configuration, or anything with its ``hidden_size``,
                ``num_hidden_layers``, ``num_attention_heads`` and, where they differ from the plain case,
                ``num_key_value_heads``, ``head_dim`` and ``intermediate_size``.

        Raises:
            MomeError: the configuration does not determine the number.
        """


ADAPTERS: dict[str, type[AdapterConfig]] = {}
"""The adapters' options by kind; defining a subclass of :class:`AdapterConfig` adds it."""


def is_adapter_key(key: str) -> bool:
    """Whether a key of a state dict belongs to an adapter."""
    return not ADAPTERS.keys().isdisjoint(key.split(".")[:-1])


def adapter_config_to_dict(config: AdapterConfig) -> dict[str, Any]:
    """Plain dict of ``config`` that JSON and YAML can hold, with its kind as ``"type"``."""
    options = asdict(config)  # type: ignore[call-overload]  # a dataclass, as every subclass is
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return {"type": config.kind, **values}


def adapter_config_from_dict(values: Mapping[str, Any]) -> AdapterConfig:
    """Make the configuration that ``values`` describe.

    Args:
        values: ``"type"`` (such as ``"mome"`` or ``"lora"``) and any of that configuration's fields.

    Raises:
        MomeError: the type is missing or unknown, a key is unknown (the nearest name is suggested), a
            needed key is missing, or a value is not possible.
    """
    return options_from_dict("adapter", ADAPTERS, values)
