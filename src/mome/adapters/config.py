"""What to attach: the two adapter configurations and their plain-dict form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mome.errors import MomeError, shortened
from mome.options import options_from_dict

Placement = Literal["layer", "attention", "ffn"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
LARGEST = 2**20  # of whatever is counted, far beyond sense, so that sizes can be computed with


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MomeError(f"{name} = {shortened(repr(value))} is not possible: give a whole number from {least} up")
    if value > LARGEST:
        raise MomeError(f"{name} = {shortened(value)} is not possible: give at most {LARGEST}")


def _share(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise MomeError(f"{name} = {value!r} is not possible: give a number from 0 to less than 1")


@dataclass(frozen=True)
class MomeAdapterConfig:
    """A bank of routed and shared bottleneck experts parallel to a frozen module of every decoder layer.

    Source: MoME ("Mixture of Matryoshka Experts for AVSR", NeurIPS 2025). "MoME-23/4" is 23 routed experts
    of which 4 are active for a token, and 1 shared expert: the defaults here.

    Attributes:
        placement: the frozen module that the experts run beside: ``"layer"`` (the whole decoder layer),
            ``"attention"`` (its self-attention) or ``"ffn"`` (its feed-forward part). The last two see the
            same normalised input as that module.
        routed_experts: N_r, experts that the router chooses from.
        shared_experts: N_s, experts that every token uses with gate 1.
        top_k: routed experts active for a token.
        bottleneck: r, hidden width of an expert, as small as 1.
        renormalize: divide the kept gates by their sum. Off by default: the gates are then the router's
            softmax over all experts with all but the top k set to zero. That way the router receives a
            gradient at k = 1 too (a renormalised single gate is constantly 1), and changing k at inference
            adds or removes only the least probable experts and leaves the gates of the others as they were
            trained.
        normalize_input: with placement ``"layer"``, pass the layer's input through the layer's own input
            norm before the experts; off gives them the raw residual stream. Without effect elsewhere.
    """

    placement: Placement = "layer"
    routed_experts: int = 23
    shared_experts: int = 1
    top_k: int = 4
    bottleneck: int = 8
    renormalize: bool = False
    normalize_input: bool = True

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        if self.placement not in PLACEMENTS:
            raise MomeError(
                f"placement '{shortened(self.placement)}' is unknown: choose one of {', '.join(PLACEMENTS)}"
            )
        _whole("routed_experts", self.routed_experts, 1)
        _whole("shared_experts", self.shared_experts, 0)
        _whole("top_k", self.top_k, 1)
        _whole("bottleneck", self.bottleneck, 1)
        if self.top_k > self.routed_experts:
            raise MomeError(
                f"top_k = {self.top_k} is more than routed_experts = {self.routed_experts}: lower it or add experts"
            )


@dataclass(frozen=True)
class LoraAdapterConfig:
    """Low-rank updates of linear layers: h W + scale * (h W_shared + h W_specific[group]).

    Source: Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs"), on the query and value
    projections. LoRA-MS has the shared update alone, LoRA-SS a specific one for each pair of rates, LoRA-MSS
    both. With tasks in place of rates these are the S, T and ST variants of Omni-AVSR.

    Attributes:
        bottleneck: rank of the update; the published ones are d / 32, or d / 64 for the 8B model.
        scale: fixed factor on the update, applied as it stands (not alpha / rank).
        targets: names of the linear layers of a decoder layer that get an update.
        shared: have an update that all sequences use.
        specific: number of groups that have an update of their own; 0 for none. A forward pass must then say
            the group of each sequence, in ``AdapterContext(group=...)``.
        dropout: probability with which a feature of h is left out of the updates, of all alike, while the adapter
            is in training mode; the others are divided by one minus that.
    """

    bottleneck: int
    scale: float = 1 / 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    shared: bool = True
    specific: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming the option that cannot be."""
        _whole("bottleneck", self.bottleneck, 1)
        if isinstance(self.targets, str):
            raise MomeError(f"targets = {self.targets!r} is one text: give a list of layer names")
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets:
            raise MomeError("targets is empty: name at least one linear layer, such as q_proj")
        if not isinstance(self.shared, bool):
            raise MomeError(f"shared = {self.shared!r} is not possible: give true or false")
        _whole("specific", self.specific, 0)
        _share("dropout", self.dropout)
        if not self.shared and not self.specific:
            raise MomeError("neither shared nor specific LoRA: set shared to true, or specific to the number of groups")


AdapterConfig = MomeAdapterConfig | LoraAdapterConfig
_TYPES: dict[str, type[MomeAdapterConfig] | type[LoraAdapterConfig]] = {
    "mome": MomeAdapterConfig,
    "lora": LoraAdapterConfig,
}


def adapter_config_to_dict(config: AdapterConfig) -> dict[str, Any]:
    """Plain dict of ``config`` that JSON and YAML can hold, with its kind under ``"type"``."""
    kind = next(name for name, cls in _TYPES.items() if isinstance(config, cls))
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    return {"type": kind, **values}


def adapter_config_from_dict(values: Mapping[str, Any]) -> AdapterConfig:
    """The configuration that ``values`` describe.

    Args:
        values: ``"type"`` (``"mome"`` or ``"lora"``) and any of that configuration's fields.

    Raises:
        MomeError: the type is missing or unknown, a key is unknown (the nearest name is suggested), a
            needed key is missing, or a value is not possible.
    """
    return options_from_dict("adapter", _TYPES, values)
