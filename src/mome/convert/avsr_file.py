"""Which published recogniser a file holds: its state dict, and whether that is of the system that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mome.convert.avsr_card import TITLES
from mome.convert.avsr_names import EMBEDDING, PROMPTS, audio_type, smop_name, specific_name, unnumbered
from mome.errors import MomeError, listed

_LIGHTNING, _FAIRSEQ = "state_dict", "model"  # where files of these trainers keep their weights
_MODULE = "model."  # the recogniser in the published code's training module


def state_dict(content: Mapping[Any, Any], system: str, source: str) -> tuple[dict[str, Tensor], list[str]]:
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


def _system(state: Mapping[str, Any]) -> tuple[str, str]:
    """Which system a state dict is of, and what shows it."""
    if (name := smop_name(state)) is not None:
        return "llama-smop", f"it has {name}"
    if (name := next((key for key in PROMPTS if key in state), None) or specific_name(state)) is not None:
        return "omni-avsr", f"it has {name}"
    kinds = {unnumbered(state, modality) for modality in ("audio", "video")}
    if False in kinds and True not in kinds:
        return "llama-mtsk", "its projectors are numbered"
    return "llama-avsr", "its projectors are not numbered"
