"""The rates of a published recogniser: told by the widths of stacking projectors, else given or the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mome.connectors.pooling import CompressionMethod
from mome.convert.avsr_names import Projectors
from mome.errors import MomeError

PUBLISHED: dict[str, dict[str, list[int]]] = {
    "llama-avsr": {"audio": [4], "video": [2]},
    "llama-mtsk": {"audio": [4, 16], "video": [2, 5]},
    "omni-avsr": {"audio": [4, 16], "video": [2, 5]},
    "llama-smop": {"audio": [4], "video": [2]},
}
"""Rates of the published checkpoints that average."""

_ALONE = {"audio": [32], "video": [5]}  # of Llama-AVSR's for one modality

_ELASTIC = ("llama-mtsk", "omni-avsr")  # systems whose single projector may serve several rates


@dataclass(frozen=True)
class Chosen:
    """Rates by modality, how tokens are compressed, and what had to be assumed."""

    rates: Mapping[str, list[int]]
    compression: CompressionMethod
    notes: list[str]


def choose_rates(
    system: str,
    projectors: Projectors,
    widths: Mapping[str, int],
    given: Mapping[str, list[int] | None],
    source: str,
) -> Chosen:
    """Find the rates of each modality.

    Args:
        system: a key of :data:`PUBLISHED`.
        projectors: the checkpoint's.
        widths: of the encoders' tokens, by modality.
        given: rates that the user gave, by modality.
        source: what messages call the checkpoint.

    Raises:
        MomeError: they do not fit the projectors.
    """
    factors: dict[str, list[int | None]] = {}
    for side, width in widths.items():
        factors[side] = [None if size is None or size % width else size // width for size in projectors.widths[side]]
    stacked = any(max((one or 1 for one in side), default=1) > 1 for side in factors.values())
    # Each projector has another width then, else one of them is not as it should be.
    stacked = stacked and all(len(set(side)) == len(side) for side in factors.values())
    rates, assumed = {}, []
    for side, told in factors.items():
        wanted = given[side]
        if stacked:
            if None not in told and wanted not in (None, told):
                raise MomeError(f"--{side}-rates {_text(wanted)} does not fit {source}, which stacks {_text(told)}")
            free = 1 + max(filter(None, told), default=0)  # of a projector that does not tell its own
            rates[side] = wanted if wanted is not None else [one or free for one in told]
            continue
        alone = system == "llama-avsr" and len(factors) == 1
        rates[side] = wanted if wanted is not None else (_ALONE if alone else PUBLISHED[system])[side]
        if wanted is None:
            assumed.append(f"{side} {_text(rates[side])}")
        several = system in _ELASTIC and side in projectors.shared
        if len(rates[side]) != len(told) and not several:
            raise MomeError(
                f"{source} has {len(told)} {side} projectors, and --{side}-rates are {len(rates[side])} "
                f"({_text(rates[side])}): give one rate for each"
            )
    notes = [f"the file does not tell its rates, so assumed: {', '.join(assumed)}"] if assumed else []
    return Chosen(rates, "stack" if stacked else "average", notes)


def _text(rates: Sequence[int | None] | None) -> str:
    return ",".join(map(str, rates or ()))
