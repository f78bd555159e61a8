"""Low-rank updates of a frozen linear layer: one for all sequences, one for each group of them, or both.

Shape notation: r bottleneck, n groups, B sequences.

Source: Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs"): the frozen layer's output plus s
times the output of a down- and an up-projection, both without bias. LoRA-MS shares one such pair among all
rates, LoRA-SS has a pair for each rate, and LoRA-MSS adds both. Omni-AVSR does the same with tasks for rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mome.adapters.base import Adapter, AdapterConfig, ParameterCount, is_adapter_key
from mome.adapters.context import AdapterContext
from mome.adapters.groups import check_groups, group_linear
from mome.adapters.hooks import connect
from mome.adapters.layers import adapter_factory
from mome.errors import MomeError
from mome.options import check_dropout, check_whole


class Lora(Adapter):
    """scale * (shared(x) + specific[group](x)), which a hook adds to a frozen linear layer's output; zero at first.

    In training mode, dropout is applied to x first, with the same mask for both.

    Attributes:
        down, up: the shared update, bias-free ``nn.Linear`` with weights (r, in_features) and
            (out_features, r); None where the configuration has none.
        specific: the updates of the groups; None where the configuration has none.
        scale: fixed factor.
        dropout: probability with which a feature of x is left out in training.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: LoraAdapterConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the update of ``config`` for an ``in_features`` to ``out_features`` layer."""
        super().__init__()
        self.scale, self.dropout = config.scale, config.dropout
        self.down: nn.Linear | None = None
        self.up: nn.Linear | None = None
        self.specific: SpecificLora | None = None
        if config.shared:
            self.down = nn.Linear(in_features, config.bottleneck, bias=False, device=device, dtype=dtype)
            self.up = nn.Linear(config.bottleneck, out_features, bias=False, device=device, dtype=dtype)
        if config.specific:
            self.specific = SpecificLora(
                config.specific, in_features, out_features, config.bottleneck, device=device, dtype=dtype
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the down-projections (Kaiming-uniform); zero the up-projections."""
        if self.down is not None and self.up is not None:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)
        if self.specific is not None:
            self.specific.reset_parameters()

    def forward(self, x: Tensor, context: AdapterContext | None = None) -> Tensor:
        """Compute the update for ``x``.

        Args:
            x: (B, ..., in_features), floating; computed in the dtype of the parameters.
            context: names the groups; by default the running forward pass's context.

        Returns:
            (B, ..., out_features) in the dtype of ``x``.

        Raises:
            MomeError: there are specific updates, and the context names no group, or a group that does not exist.
        """
        context = context or self.context
        inner = F.dropout(x.to(next(self.parameters()).dtype), self.dropout, self.training)
        update: Tensor | None = None
        if self.down is not None and self.up is not None:
            # Scale the narrow side: fewer products than scaling the output.
            update = self.up(self.down(inner) * self.scale)
        if self.specific is not None:
            specific = self.specific(inner, context, self.scale)
            update = specific if update is None else update + specific
        assert update is not None
        return update.to(x.dtype)

    def matrices(self, group: int | None) -> tuple[Tensor, Tensor]:
        """The update of one group as a single pair of matrices, without the factor ``scale``.

        Args:
            group: which specific update; None if there are none.

        Returns:
            Down (R, in_features) and up (out_features, R), detached. R is r, or 2r with both a shared and a
            specific update.

        Raises:
            MomeError: the group is missing, out of range, or given to a LoRA without specific updates.
        """
        pairs = []
        if self.down is not None and self.up is not None:
            pairs.append((self.down.weight, self.up.weight))
        if self.specific is None:
            if group is not None:
                raise MomeError(f"group = {group} cannot be chosen: this LoRA has no specific part; leave group out")
        else:
            if group is None:
                raise MomeError(f"this LoRA has {self.specific.groups} groups: choose one with group=")
            check_groups((group,), self.specific.groups, "LoRA")
            pairs.append((self.specific.down[group], self.specific.up[group]))
        down, up = zip(*pairs, strict=True)
        return torch.cat(down).detach(), torch.cat(up, dim=1).detach()

    def extra_repr(self) -> str:
        """The numbers, for ``print(model)``."""
        return f"scale={self.scale}, dropout={self.dropout}"


class SpecificLora(nn.Module):
    """n low-rank updates; each sequence uses that of its group, see :func:`mome.adapters.groups.group_linear`.

    Parameters (in the dtype given):
        down: (n, r, in_features).
        up: (n, out_features, r).
    """

    def __init__(
        self,
        groups: int,
        in_features: int,
        out_features: int,
        bottleneck: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make ``groups`` updates of an ``in_features`` to ``out_features`` layer, not yet initialised."""
        super().__init__()
        self.groups = groups
        self.down = nn.Parameter(torch.empty(groups, bottleneck, in_features, device=device, dtype=dtype))
        self.up = nn.Parameter(torch.empty(groups, out_features, bottleneck, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Draw each group as the shared update; the bound is that of Kaiming-uniform with a = sqrt(5)."""
        bound = 1 / math.sqrt(self.down.shape[-1])
        nn.init.uniform_(self.down, -bound, bound)
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor, context: AdapterContext | None, scale: float) -> Tensor:
        """scale * up[group](down[group](x)), (B, ..., in_features) to (B, ..., out_features)."""
        return group_linear(group_linear(x, self.down, context, "LoRA") * scale, self.up, context, "LoRA")

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"groups={self.groups}, bottleneck={self.down.shape[1]}"


@dataclass(frozen=True)
class LoraAdapterConfig(AdapterConfig, kind="lora"):
    """Low-rank updates of linear layers: h W + scale * (h W_shared + h W_specific[group]).

    Source: Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs"), on the query and value
    projections. LoRA-MS has the shared update alone, LoRA-SS a specific one for each pair of rates, LoRA-MSS
    both. With tasks in place of rates these are the S, T and ST variants of Omni-AVSR.

    Attributes:
        bottleneck: rank of the update; the published ones are d / 32, or d / 64 for the 8B model.
        scale: fixed factor on the update, applied as it stands (not alpha / rank).
        targets: names of the linear layers of a decoder layer that get an update.
        shared: have an update that all sequences use.
        specific: number of groups with an update of their own; unless 0, a forward pass must name the group of each
            sequence, in ``AdapterContext(group=...)``.
        dropout: dropout probability of h in training mode, before the updates; all updates see the same mask.
    """

    bottleneck: int
    scale: float = 1 / 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    shared: bool = True
    specific: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming an impossible option."""
        check_whole("bottleneck", self.bottleneck)
        if isinstance(self.targets, str):
            raise MomeError(f"targets = {self.targets!r} is one text: give a list of layer names")
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets:
            raise MomeError("targets is empty: name at least one linear layer, such as q_proj")
        if not isinstance(self.shared, bool):
            raise MomeError(f"shared = {self.shared!r} is not possible: give true or false")
        check_whole("specific", self.specific, least=0)
        check_dropout(self.dropout)
        if not self.shared and not self.specific:
            raise MomeError("neither shared nor specific LoRA: set shared to true, or specific to the number of groups")

    @property
    def context_at(self) -> Literal["attention"] | None:
        """The self-attention, which passes the groups to the specific updates."""
        return "attention" if self.specific else None

    @property
    def groups(self) -> int:
        """Number of specific updates."""
        return self.specific

    def attach(self, layers: nn.ModuleList) -> None:
        """See :func:`attach_lora`."""
        attach_lora(layers, self)

    def count(self, language_model: Any) -> ParameterCount:
        """Count all updates of all targets and layers; a sequence uses the shared one and that of its group."""
        layers = language_model.num_hidden_layers
        single = layers * sum(
            lora_parameters(self.bottleneck, *_linear_shape(name, language_model)) for name in self.targets
        )
        active = self.shared + (self.specific > 0)
        return ParameterCount((self.shared + self.specific) * single, active * single)


def lora_parameters(bottleneck: int, in_features: int, out_features: int) -> int:
    """Number of parameters of one low-rank update."""
    return bottleneck * (in_features + out_features)


def _linear_shape(name: str, language_model: Any) -> tuple[int, int]:
    """Input and output width of a linear layer, by its name in Transformers' decoder layers."""
    width, heads = language_model.hidden_size, language_model.num_attention_heads
    head_dim = getattr(language_model, "head_dim", None) or width // heads
    queries = heads * head_dim
    values = (getattr(language_model, "num_key_value_heads", None) or heads) * head_dim
    inner = getattr(language_model, "intermediate_size", None)
    shapes = {
        "q_proj": (width, queries),
        "k_proj": (width, values),
        "v_proj": (width, values),
        "o_proj": (queries, width),
    }
    if inner is not None:
        shapes |= {"gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}
    if name not in shapes:
        raise MomeError(f"the size of the LoRA target '{name}' is unknown: known are {', '.join(shapes)}")
    return shapes[name]


def attach_lora(layers: Iterable[nn.Module], config: LoraAdapterConfig) -> None:
    """Attach low-rank updates to Transformer layers, a decoder's or an encoder's.

    Nothing is frozen or made trainable.

    Raises:
        MomeError: a layer lacks a linear layer that the configuration names. The layers are unchanged then.
    """
    layers = list(layers)
    found = [_linears(layer, config.targets) for layer in layers]
    for index, (layer, linears) in enumerate(zip(layers, found, strict=True)):
        slot = connect(layer, index)
        for linear in linears:
            lora = Lora(linear.in_features, linear.out_features, config, **adapter_factory(linear, layer))
            lora.slot = slot
            linear.add_module(config.kind, lora.train(linear.training))
            lora.hooks.append(linear.register_forward_hook(add_lora, prepend=True))


def _linears(layer: nn.Module, targets: tuple[str, ...]) -> list[nn.Linear]:
    linears: dict[str, list[nn.Linear]] = {}
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear) and not is_adapter_key(f"{name}.weight"):
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


def add_lora(linear: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Hook of a linear layer: add the low-rank update."""
    lora = linear.lora
    assert isinstance(lora, Lora)
    update: Tensor = lora(args[0])
    return output + update
