"""The MoME expert bank: a router and small experts, computed densely with two matrix products.

Shape notation: d model width, r bottleneck, N_r routed and N_s shared experts, N = N_s + N_r, k active
routed experts.

Source: MoME ("Mixture of Matryoshka Experts for AVSR", NeurIPS 2025), with the gated sum

    y = sum over shared s of E_s(x) + sum over routed e of g_e(x) E_e(x),

    E_e(x) = U_e GELU(D_e x + b_e) + c_e,   g(x) = softmax(R x) at the k largest entries, 0 elsewhere.

The router R is one for all sequences, or, as in the paper's ablation, one for each group of them, such as those of one
pair of rates; the experts are the same for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mome.adapters.base import Adapter, AdapterConfig, ParameterCount
from mome.adapters.context import CONTEXT_KEY, AdapterContext
from mome.adapters.groups import group_linear
from mome.adapters.hooks import add_to_output, connect, leave_norm, refuse_reentrant, slot_of
from mome.adapters.layers import adapter_factory, hidden_states, model_width, submodule
from mome.errors import MomeError, shortened
from mome.options import check_dropout, check_whole
from mome.routing import router_statistics

Placement = Literal["layer", "attention", "ffn"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


class ExpertBank(Adapter):
    """Routed and shared bottleneck experts over vectors of width d; see the module for the equation.

    All experts are computed for every token, and the gates of those not chosen are zero. With small bottlenecks this
    is far cheaper than gathering the chosen experts: router and all down-projections are one matrix product, all
    up-projections another. The result is that of the sparse sum.

    Experts are ordered shared first, then routed.

    Parameters (in the dtype given):
        inner_weight: (N_r + N * r, d), the router R, then the down-projections D_e, expert after expert; without R,
            (N * r, d), if there are several routers.
        inner_bias: (N * r,), the down-projections' biases b_e; the router has none.
        outer_weight: (d, N * (r + 1)), the up-projections U_e side by side, each followed by its bias c_e as one more
            column, so that the gated biases need no separate product.
        routers: (n, N_r, d), the router of each group if there are several, else None.

    Attributes:
        top_k: k, active routed experts; may be changed between forward passes (elastic inference). A pass whose
            context has a k of its own uses that.
    """

    def __init__(
        self,
        width: int,
        config: MomeAdapterConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the bank of ``config`` for vectors of width ``width``; its output is zero at first."""
        super().__init__()
        self.width = width
        self.config = config
        self.experts = config.shared_experts + config.routed_experts
        self.top_k = config.top_k
        inner = self.experts * config.bottleneck
        rows = inner + (0 if config.groups else config.routed_experts)
        self.inner_weight = nn.Parameter(torch.empty(rows, width, device=device, dtype=dtype))
        self.inner_bias = nn.Parameter(torch.empty(inner, device=device, dtype=dtype))
        outer = inner + self.experts
        self.outer_weight = nn.Parameter(torch.empty(width, outer, device=device, dtype=dtype))
        self.routers: nn.Parameter | None = None
        if config.groups:
            several = (config.groups, config.routed_experts, width)
            self.routers = nn.Parameter(torch.empty(several, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw routers and down-projections as ``nn.Linear`` does; zero the up-projections, and so the output."""
        bound = 1 / math.sqrt(self.width)
        nn.init.uniform_(self.inner_weight, -bound, bound)
        nn.init.uniform_(self.inner_bias, -bound, bound)
        nn.init.zeros_(self.outer_weight)
        if self.routers is not None:
            nn.init.uniform_(self.routers, -bound, bound)

    @property
    def top_k(self) -> int:
        """Active routed experts per token, from 1 to N_r."""
        return self._top_k

    @top_k.setter
    def top_k(self, value: int) -> None:
        self._top_k = self._checked(value)

    def _checked(self, top_k: int) -> int:
        if not 1 <= top_k <= self.config.routed_experts:
            raise MomeError(f"top_k = {top_k} is not possible: choose 1 to {self.config.routed_experts}")
        return top_k

    @property
    def router_weight(self) -> Tensor:
        """(N_r, d), a view; (n, N_r, d) if there are several routers."""
        return self.inner_weight[: self.config.routed_experts] if self.routers is None else self.routers

    @property
    def down_weight(self) -> Tensor:
        """(N, r, d), a view."""
        return self.inner_weight[-len(self.inner_bias) :].view(self.experts, -1, self.width)

    @property
    def down_bias(self) -> Tensor:
        """(N, r), a view."""
        return self.inner_bias.view(self.experts, -1)

    @property
    def up_weight(self) -> Tensor:
        """(N, d, r), a view."""
        return self.outer_weight.view(self.width, self.experts, -1)[..., :-1].transpose(0, 1)

    @property
    def up_bias(self) -> Tensor:
        """(N, d), a view."""
        return self.outer_weight.view(self.width, self.experts, -1)[..., -1].t()

    def route(self, logits: Tensor, top_k: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gates of the routed experts.

        Args:
            logits: (..., N_r), floating.
            top_k: k; by default that of the bank.

        Returns:
            Gates (..., N_r), zero except for the top k; probabilities (..., N_r); chosen experts (..., k),
            long. Gates and probabilities are float32, or float64 if the logits are.

        Raises:
            MomeError: there are fewer than k routed experts.
        """
        # At least float32: in bfloat16 near-equal experts get equal probabilities.
        probabilities = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        kept, chosen = probabilities.topk(self.top_k if top_k is None else self._checked(top_k), dim=-1, sorted=False)
        if self.config.renormalize:
            kept = kept / kept.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, chosen, kept), probabilities, chosen

    def forward(self, x: Tensor, context: AdapterContext | None = None) -> Tensor:
        """Compute the gated sum of the experts for ``x``.

        Args:
            x: (..., d), floating; computed in the dtype of the parameters.
            context: records the routing statistics, may say k, and names the groups if there are several routers; by
                default the running forward pass's context.

        Returns:
            (..., d) in the dtype of ``x``.

        Raises:
            MomeError: there are several routers, and the context names no group, or a group that does not exist; the
                context's k is not possible.
        """
        context = context or self.context
        own = x.to(self.inner_weight.dtype)
        if self.routers is None:
            routed = self.config.routed_experts
            inner = F.linear(own, self.inner_weight, F.pad(self.inner_bias, (routed, 0)))
            logits, inner = inner[..., :routed], inner[..., routed:]
        else:
            logits = group_linear(own, self.routers, context, "MoME adapter")
            inner = F.linear(own, self.inner_weight, self.inner_bias)
        gates, probabilities, chosen = self.route(logits, None if context is None else context.top_k)
        if context is not None:
            layer_index = 0 if self.slot is None else self.slot.layer_index
            context.record(layer_index, router_statistics(probabilities, chosen, context.token_mask))
            if context.observe is not None:
                context.observe(layer_index, probabilities, chosen)

        # y = sum_e g_e (U_e GELU(D_e x + b_e) + c_e) = sum_e [U_e c_e] (g_e [GELU(D_e x + b_e); 1]), g_s = 1 for
        # shared experts. The factor g_e is on the narrow side, and the sum over e is part of the matrix product.
        hidden = F.gelu(inner).unflatten(-1, (self.experts, -1))
        hidden = F.dropout(hidden, self.config.dropout, self.training)
        gates = F.pad(gates, (self.config.shared_experts, 0), value=1.0).to(hidden.dtype)
        hidden = F.pad(hidden, (0, 1), value=1.0) * gates.unsqueeze(-1)
        return F.linear(hidden.flatten(-2), self.outer_weight).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"{self.width}, routed={self.config.routed_experts}, shared={self.config.shared_experts}, "
            f"top_k={self.top_k}, bottleneck={self.config.bottleneck}, routers={self.config.routers}"
        )


@dataclass(frozen=True)
class MomeAdapterConfig(AdapterConfig, kind="mome"):
    """A bank of routed and shared bottleneck experts parallel to a frozen module of every decoder layer.

    Source: MoME ("Mixture of Matryoshka Experts for AVSR", NeurIPS 2025). The defaults are "MoME-23/4": 23 routed
    experts, 4 of them active for a token, and 1 shared expert.

    Attributes:
        placement: the frozen module that the experts run beside: ``"layer"`` (the whole decoder layer),
            ``"attention"`` (its self-attention) or ``"ffn"`` (its feed-forward part). With the last two, the experts
            read the same normalised input as that module.
        routed_experts: N_r, experts that the router chooses from.
        shared_experts: N_s, experts that every token uses with gate 1.
        top_k: routed experts active for a token.
        bottleneck: r, hidden width of an expert, as small as 1.
        renormalize: divide the kept gates by their sum. Off by default: the router then receives a gradient at
            k = 1 too (a renormalised single gate is always 1), and changing k at inference adds or removes the least
            probable experts and leaves the gates of the others as they were trained.
        dropout: dropout probability of the experts' hidden values in training mode; the router reads its input whole.
        normalize_input: with placement ``"layer"``, whether the experts read the layer's input after the layer's own
            input norm, or the residual stream itself. No effect with other placements.
        routers: 1: all sequences share the router, which is MoME. More, for the paper's ablation: a router for each
            group of sequences, and a forward pass must name the group of each sequence, in
            ``AdapterContext(group=...)``; a recogniser's options say ``"rates"`` or ``"tasks"``. The routing statistics
            of a pass are those of its sequences together.
    """

    group_option = "routers"

    placement: Placement = "layer"
    routed_experts: int = 23
    shared_experts: int = 1
    top_k: int = 4
    bottleneck: int = 8
    renormalize: bool = False
    normalize_input: bool = True
    dropout: float = 0.0
    routers: int = 1

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming an impossible option."""
        if self.placement not in PLACEMENTS:
            raise MomeError(
                f"placement '{shortened(self.placement)}' is unknown: choose one of {', '.join(PLACEMENTS)}"
            )
        check_whole("routed_experts", self.routed_experts)
        check_whole("shared_experts", self.shared_experts, least=0)
        check_whole("top_k", self.top_k)
        check_whole("bottleneck", self.bottleneck)
        check_dropout(self.dropout)
        check_whole("routers", self.routers)
        if self.top_k > self.routed_experts:
            raise MomeError(
                f"top_k = {self.top_k} is more than routed_experts = {self.routed_experts}: lower it or add experts"
            )

    @property
    def context_at(self) -> Literal["layer", "attention"]:
        """The layer, or its self-attention if the bank is inside the layer."""
        return "layer" if self.placement == "layer" else "attention"

    @property
    def groups(self) -> int:
        """Number of routers if there are several, else 0."""
        return self.routers if self.routers > 1 else 0

    def attach(self, layers: nn.ModuleList) -> None:
        """Attach a bank to each layer, or to its attention or feed-forward part."""
        name = {"layer": "", "attention": "self_attn", "ffn": "mlp"}[self.placement]
        hook = {"layer": add_layer_bank, "attention": add_attention_bank, "ffn": add_ffn_bank}[self.placement]
        targets = [submodule(layer, name) for layer in layers]
        normalize = self.placement == "layer" and self.normalize_input
        hint = "; set normalize_input to false"
        norms = [submodule(layer, "input_layernorm", hint=hint) for layer in layers] if normalize else []
        for index, (layer, target) in enumerate(zip(layers, targets, strict=True)):
            bank = ExpertBank(model_width(layer), self, **adapter_factory(layer))
            bank.slot = connect(layer, index)
            target.add_module(self.kind, bank)
            # Before existing hooks: those that record hidden states must see the sum.
            bank.hooks.append(target.register_forward_hook(hook, with_kwargs=True, prepend=True))
            if self.placement != "layer":
                bank.hooks.append(layer.register_forward_pre_hook(refuse_reentrant))
            if norms:
                norms[index].adapter_slot = bank.slot  # type: ignore[assignment]
                bank.hooks.append(norms[index].register_forward_hook(leave_norm))

    def count(self, language_model: Any) -> ParameterCount:
        """Count in each layer the routers and all experts, or one router and the active experts; biases included."""
        layers, width = language_model.num_hidden_layers, language_model.hidden_size
        return ParameterCount(layers * bank_parameters(self, width), layers * active_bank_parameters(self, width))

    @property
    def most_active(self) -> int:
        """All routed experts."""
        return self.routed_experts

    def idle_operations(self, language_model: Any, top_k: int) -> int:
        """Those of the projections D_e, U_e and the column c_e of the N_r - k experts that are not chosen."""
        layers, width = int(language_model.num_hidden_layers), int(language_model.hidden_size)
        return layers * (self.routed_experts - top_k) * 2 * width * (2 * self.bottleneck + 1)


def expert_parameters(width: int, bottleneck: int) -> int:
    """Number of parameters of one expert, 2dr + d + r: two projections and their biases."""
    return 2 * width * bottleneck + width + bottleneck


def bank_parameters(config: MomeAdapterConfig, width: int) -> int:
    """Number of parameters of one expert bank: N_r * d for each router, and N_r + N_s experts."""
    experts = config.routed_experts + config.shared_experts
    return config.routers * config.routed_experts * width + experts * expert_parameters(width, config.bottleneck)


def active_bank_parameters(config: MomeAdapterConfig, width: int, top_k: int | None = None) -> int:
    """Number of parameters of one expert bank that one token uses: a router and ``top_k`` + N_s experts."""
    experts = (config.top_k if top_k is None else top_k) + config.shared_experts
    return config.routed_experts * width + experts * expert_parameters(width, config.bottleneck)


def add_layer_bank(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a decoder layer: add the experts' output for the layer's input."""
    x, context = hidden_states(args, kwargs), kwargs.get(CONTEXT_KEY)
    normalized = slot_of(layer).take(x)
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        # This hook runs outside the layer's own checkpoint, so the bank needs another one.
        dropout = _bank(layer).config.dropout > 0
        added = checkpoint(_layer_bank, layer, x, context, use_reentrant=False, preserve_rng_state=dropout)
    else:
        added = _layer_bank(layer, x, context, normalized)
    return add_to_output(output, added)


def add_attention_bank(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a self-attention: add the experts' output for its input, which the layer has normalised."""
    return add_to_output(output, _bank(attention)(hidden_states(args, kwargs)))


def add_ffn_bank(ffn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Hook of a feed-forward part: add the experts' output for its input, which the layer has normalised."""
    return add_to_output(output, _bank(ffn)(hidden_states(args, kwargs, "x")))


def _layer_bank(
    layer: nn.Module, x: Tensor, context: AdapterContext | None, normalized: Tensor | None = None
) -> Tensor:
    """The experts' output for the layer's input ``x``, which the layer may have normalised already."""
    bank = _bank(layer)
    slot_of(layer).context = context
    if normalized is not None:
        x = normalized
    elif bank.config.normalize_input:
        norm = layer.input_layernorm
        assert isinstance(norm, nn.Module)
        x = norm(x)
    added: Tensor = bank(x)
    return added


def _bank(module: nn.Module) -> ExpertBank:
    bank = module.mome
    assert isinstance(bank, ExpertBank)
    return bank


def set_top_k(model: nn.Module, top_k: int) -> None:
    """Set the number of active routed experts of every expert bank (elastic inference).

    Raises:
        MomeError: the model has no expert bank, or fewer routed experts.
    """
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    if not banks:
        raise MomeError("top_k cannot be set: no mome adapter is attached to this model")
    for bank in banks:
        bank.top_k = top_k
