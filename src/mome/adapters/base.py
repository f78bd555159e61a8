"""What an adapter is: options that attach and count it, and the module that they attach.

To add one, write a subclass of :class:`AdapterConfig` and one of :class:`Adapter`; nothing else in the package knows
the adapters by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from mome.adapters.context import AdapterSlot
from mome.options import options_from_dict


class Adapter(nn.Module):
    """A trained module that stands beside a frozen one, as its sub-module ``name``, and whose output is zero at first.

    Attributes:
        name: of the sub-module; the names of the adapter's parameters contain ``.NAME.``.
        slot: where the running forward pass's context is found, set by :func:`mome.adapters.attach`.
    """

    name: ClassVar[str]
    slot: AdapterSlot | None = None

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        ADAPTER_NAMES.add(name)


ADAPTER_NAMES: set[str] = set()
"""Names of the adapters' sub-modules; one enters when its class is made."""


def is_adapter_key(key: str) -> bool:
    """Whether a name of a state dict is that of an adapter's parameter."""
    return not ADAPTER_NAMES.isdisjoint(key.split(".")[:-1])


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: all that are trained, and those that one token uses."""

    total: int
    active: int


class AdapterConfig(ABC):
    """The options of an adapter, a frozen dataclass.

    A subclass names the adapter: ``class LoraAdapterConfig(AdapterConfig, kind="lora")``. Configurations and recipes
    choose it as ``type``.

    Attributes:
        kind: the name, given as the option ``type``.
        module: what is attached.
    """

    kind: ClassVar[str]
    module: ClassVar[type[Adapter]]

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        ADAPTERS[kind] = cls

    @property
    def context_at(self) -> Literal["layer", "attention"] | None:
        """Which module must be handed the context of a forward pass; ``None``: the adapter needs none."""
        return None

    @property
    def groups(self) -> int:
        """How many groups have parts of their own; a forward pass must then say the group of each sequence."""
        return 0

    @abstractmethod
    def attach(self, layers: nn.ModuleList) -> None:
        """Attach a module to each decoder layer; nothing else is changed.

        Raises:
            MomeError: a layer lacks what the adapter needs; the layers are unchanged then.
        """

    @abstractmethod
    def count(self, language_model: Any) -> ParameterCount:
        """Parameters in all layers.

        Args:
            language_model: the model's Hugging Face configuration, or anything with its ``hidden_size``,
                ``num_hidden_layers``, ``num_attention_heads`` and, where they differ from the plain case,
                ``num_key_value_heads``, ``head_dim`` and ``intermediate_size``.

        Raises:
            MomeError: they cannot be told from the configuration.
        """


ADAPTERS: dict[str, type[AdapterConfig]] = {}
"""All adapters by type; one enters when its options' class is made."""


def adapter_config_to_dict(config: AdapterConfig) -> dict[str, Any]:
    """Plain dict of ``config`` that JSON and YAML can hold, with its kind under ``"type"``."""
    options = asdict(config)  # type: ignore[call-overload]  # a dataclass, as every subclass is
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return {"type": config.kind, **values}


def adapter_config_from_dict(values: Mapping[str, Any]) -> AdapterConfig:
    """The configuration that ``values`` describe.

    Args:
        values: ``"type"`` (such as ``"mome"`` or ``"lora"``) and any of that configuration's fields.

    Raises:
        MomeError: the type is missing or unknown, a key is unknown (the nearest name is suggested), a
            needed key is missing, or a value is not possible.
    """
    return options_from_dict("adapter", ADAPTERS, values)


def count_adapter_parameters(config: AdapterConfig, language_model: Any) -> ParameterCount:
    """See :meth:`AdapterConfig.count`."""
    return config.count(language_model)
