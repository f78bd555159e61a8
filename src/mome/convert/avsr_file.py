"""Read the system, the weights and the rates of a published recogniser from its file.

The input width of projectors of stacked frames shows their rates. Other rates are given by the user, or the published
ones.
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
"""Rates of the published checkpoints that average frames."""

_ALONE = {"audio": [32], "video": [5]}  # of Llama-AVSR for one modality

_ELASTIC = ("llama-mtsk", "omni-avsr")  # systems that may have one projector for several rates

_LIGHTNING, _FAIRSEQ = "state_dict", "model"  # keys of the weights in the files of these trainers
_MODULE = "model."  # prefix of the recogniser in the published code's training module


def state_dict(content: Mapping[Any, Any], system: System, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Check that a file is of a system, and return its weights with notes for the user.

    Args:
        content: of the file: a flat state dict, or PyTorch Lightning's checkpoint that contains one.
        system: a key of :data:`TITLES`.
        source: what messages call the file.

    Raises:
        MomeError: the file is not of this system.
    """
    title, notes = TITLES[system], []
    if isinstance(content.get(_LIGHTNING), Mapping):
        content = _unwrapped(content[_LIGHTNING], source)
        notes = ["the file is a checkpoint of PyTorch Lightning; what it holds beside the weights was left out"]
    elif isinstance(content.get(_FAIRSEQ), Mapping):
        raise MomeError(
            f"{source} is not a checkpoint of {title}: its weights are in a dictionary '{_FAIRSEQ}', as in AV-HuBERT's "
            "and MMS-LLaMA's files; convert these as av-hubert or mms-llama, of any other save that dictionary alone "
            "with torch.save"
        )
    wrong = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise MomeError(f"{source} is not a checkpoint of {title}: {listed(wrong)} are not named tensors")
    if any(key.startswith("audio_encoder.") for key in content) and audio_type(content) is None:
        raise MomeError(
            f"{source} has an audio encoder that is none of Whisper, WavLM and AV-HuBERT: no other is converted"
        )
    if not any(key.startswith("llm.") for key in content):
        raise MomeError(f"{source} is not a checkpoint of {title}: it has no {EMBEDDING}")
    found, why = _system(content)
    if system != found and not (system == "llama-mtsk" and found == "llama-avsr"):
        raise MomeError(
            f"{source} is not a checkpoint of {title}, but of {TITLES[found]} ({why}): convert it as {found}"
        )
    if system != found:  # it may have one projector for all rates
        notes.append(f"{why}: if it is of Llama-AVSR, convert it as {found}")
    return dict(content), notes


def _unwrapped(inside: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """The weights of PyTorch Lightning's checkpoint under the names of the published files."""
    other = [str(key) for key in inside if not str(key).startswith(_MODULE)]
    if other:
        raise MomeError(
            f"{source} is a training program's checkpoint with more than a recogniser of the published code: "
            f"{listed(other)} do not begin with '{_MODULE}'; save the recogniser's weights alone with torch.save"
        )
    return {str(key).removeprefix(_MODULE): value for key, value in inside.items()}


def _system(state: Mapping[str, Tensor]) -> tuple[System, str]:
    """The system that a state dict is of, and the reason in words."""
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
    """Rates by modality, how frames are compressed, and lines on assumptions."""

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
        projectors: of the checkpoint.
        widths: D of the encoders' features, by modality.
        given: the user's rates, by modality.
        source: what messages call the checkpoint.

    Raises:
        MomeError: rates and projectors do not fit each other.
    """
    factors: dict[str, list[int | None]] = {}  # frames in the input of each projector, if it is known
    for side, width in widths.items():
        factors[side] = [None if size is None or size % width else size // width for size in projectors.widths[side]]
    stacked = any(max((factor or 1 for factor in numbers), default=1) > 1 for numbers in factors.values())
    # Projectors of stacked frames differ in width; equal ones mean that a weight is wrong.
    stacked = stacked and all(len(set(numbers)) == len(numbers) for numbers in factors.values())
    rates, assumed = {}, []
    for side, numbers in factors.items():
        chosen = given[side]
        if stacked:
            if None not in numbers and chosen not in (None, numbers):
                raise MomeError(f"--{side}-rates {_text(chosen)} does not fit {source}, which stacks {_text(numbers)}")
            free = 1 + max(filter(None, numbers), default=0)  # for projectors whose width does not show their rate
            rates[side] = chosen if chosen is not None else [factor or free for factor in numbers]
            continue
        alone = system == "llama-avsr" and len(factors) == 1
        rates[side] = chosen if chosen is not None else (_ALONE if alone else PUBLISHED[system])[side]
        if chosen is None:
            assumed.append(f"{side} {_text(rates[side])}")
        several = system in _ELASTIC and side in projectors.shared
        if len(rates[side]) != len(numbers) and not several:
            raise MomeError(
                f"{source} has {len(numbers)} {side} projectors, and --{side}-rates are {len(rates[side])} "
                f"({_text(rates[side])}): give one rate for each"
            )
    notes = [f"the file does not show its rates, so assumed: {', '.join(assumed)}"] if assumed else []
    return Chosen(rates, "stack" if stacked else "average", notes)


def _text(rates: Sequence[int | None] | None) -> str:
    return ",".join(map(str, rates or ()))
