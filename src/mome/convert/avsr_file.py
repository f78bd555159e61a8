"""What the file of a published recogniser says of it: its system, its weights, and its rates.

Rates are told by the widths of stacking projectors; of averaging ones they are given, or the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mome.connectors.pooling import CompressionMethod
from mome.convert.avsr_names import EMBEDDING, PROMPTS, Projectors, audio_type, smop_name, specific_name, unnumbered
from mome.errors import MomeError, listed

System = Literal["llama-avsr", "llama-mtsk", "omni-avsr", "llama-smop"]
TITLES: dict[System, str] = {
    "llama-avsr": "Llama-AVSR",
    "llama-mtsk": "Llama-MTSK",
    "omni-avsr": "Omni-AVSR",
    "llama-smop": "Llama-SMoP",
}

PUBLISHED: dict[System, dict[str, list[int]]] = {
    "llama-avsr": {"audio": [4], "video": [2]},
    "llama-mtsk": {"audio": [4, 16], "video": [2, 5]},
    "omni-avsr": {"audio": [4, 16], "video": [2, 5]},
    "llama-smop": {"audio": [4], "video": [2]},
}
"""Rates of the published checkpoints that average."""

_ALONE = {"audio": [32], "video": [5]}  # of Llama-AVSR's for one modality

_ELASTIC = ("llama-mtsk", "omni-avsr")  # systems whose single projector may serve several rates

_LIGHTNING, _FAIRSEQ = "state_dict", "model"  # where files of these trainers keep their weights
_MODULE = "model."  # the recogniser in the published code's training module


def state_dict(content: Mapping[Any, Any], system: System, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a file that holds this system, and notes on it.

    Args:
        content: of the file, which is a flat state dict or PyTorch Lightning's checkpoint with one inside.
        system: a key of :data:`TITLES`.
        source: what messages call the file.

    Raises:
        MomeError: the file holds something else.
    """
    title, notes = TITLES[system], []
    if isinstance(content.get(_LIGHTNING), Mapping):
        content = _unwrapped(content[_LIGHTNING], source)
        notes = ["the file is a checkpoint of PyTorch Lightning; what it holds beside the weights was left out"]
    elif isinstance(content.get(_FAIRSEQ), Mapping):
        raise MomeError(
            f"{source} is no checkpoint of {title}: its weights are in a dictionary '{_FAIRSEQ}', as in AV-HuBERT's "
            "files; convert AV-HuBERT as av-hubert, of any other save that dictionary alone with torch.save"
        )
    wrong = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise MomeError(f"{source} is no checkpoint of {title}: {listed(wrong)} are no named tensors")
    if any(key.startswith("audiovisual_encoder.") for key in content):
        raise MomeError(f"{source} has one AV-HuBERT for sound and lips together: such recognisers are not converted")
    if any(key.startswith("audio_encoder.") for key in content) and audio_type(content) is None:
        raise MomeError(f"{source} has an audio encoder that is neither Whisper nor WavLM: only these are converted")
    if not any(key.startswith("llm.") for key in content):
        raise MomeError(f"{source} is no checkpoint of {title}: it has no {EMBEDDING}")
    found, why = _system(content)
    if system != found and not (system == "llama-mtsk" and found == "llama-avsr"):
        raise MomeError(f"{source} is no checkpoint of {title}, but of {TITLES[found]} ({why}): convert it as {found}")
    if system != found:  # it may have one projector for all rates
        notes.append(f"{why}: if it is of Llama-AVSR, convert it as {found}")
    return dict(content), notes


def _unwrapped(inside: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """The weights in Lightning's checkpoint under the names of the published files."""
    other = [str(key) for key in inside if not str(key).startswith(_MODULE)]
    if other:
        raise MomeError(
            f"{source} is a training program's checkpoint with more than a recogniser of the published code: "
            f"{listed(other)} do not begin with '{_MODULE}'; save the recogniser's weights alone with torch.save"
        )
    return {str(key).removeprefix(_MODULE): value for key, value in inside.items()}


def _system(state: Mapping[str, Any]) -> tuple[System, str]:
    """Which system a state dict is of, and what shows it."""
    if (name := smop_name(state)) is not None:
        return "llama-smop", f"it has {name}"
    if (name := next((key for key in PROMPTS if key in state), None) or specific_name(state)) is not None:
        return "omni-avsr", f"it has {name}"
    kinds = {unnumbered(state, modality) for modality in ("audio", "video")}
    if False in kinds and True not in kinds:
        return "llama-mtsk", "its projectors are numbered"
    return "llama-avsr", "its projectors are not numbered"


@dataclass(frozen=True)
class Chosen:
    """Rates by modality, how tokens are compressed, and what had to be assumed."""

    rates: Mapping[str, list[int]]
    compression: CompressionMethod
    notes: list[str]


def choose_rates(
    system: System,
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
    stacked = any(max((factor or 1 for factor in side), default=1) > 1 for side in factors.values())
    # Each projector has another width then, else one of them is not as it should be.
    stacked = stacked and all(len(set(side)) == len(side) for side in factors.values())
    rates, assumed = {}, []
    for side, told in factors.items():
        wanted = given[side]
        if stacked:
            if None not in told and wanted not in (None, told):
                raise MomeError(f"--{side}-rates {_text(wanted)} does not fit {source}, which stacks {_text(told)}")
            free = 1 + max(filter(None, told), default=0)  # of a projector that does not tell its own
            rates[side] = wanted if wanted is not None else [factor or free for factor in told]
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
