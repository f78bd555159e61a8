"""``mome convert``: from checkpoints of other programs to model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from mome.cli.options import Json
from mome.cli.output import quiet, result, to_json
from mome.errors import MomeError

if TYPE_CHECKING:
    from mome.convert.writing import Account

System = Literal["llama-avsr", "llama-mtsk", "omni-avsr", "llama-smop"]
Kind = Literal["av-hubert", System, "mms-llama"]

_PANEL = "Of a whole recogniser"
_NEEDED_BY_MMS = {
    "language_model": "meta-llama/Llama-3.2-3B",
    "audio_encoder": "openai/whisper-medium.en",
    "video_encoder": "models/av-hubert-large",
    "speech_rate": "checkpoint.pt",
}


def convert(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What the checkpoint is of.", show_default=False)],
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CKPT", help="The checkpoint, such as large_vox_iter5.pt.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to make; it must be new or empty.", show_default=False)
    ],
    language_model: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Its language model, a hub id or folder: for the tokenizer, and to refer to its weights.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    audio_encoder: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Its Whisper, WavLM or AV-HuBERT, a hub id or folder.", rich_help_panel=_PANEL),
    ] = None,
    video_encoder: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Its AV-HuBERT, a folder that av-hubert made.", rich_help_panel=_PANEL),
    ] = None,
    audio_rates: Annotated[
        str | None,
        typer.Option(
            metavar="R,…",
            help="Audio rates in the order of the projectors. Default, as published: 4 (llama-mtsk and omni-avsr: "
            "4,16; llama-avsr without video: 32).",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    video_rates: Annotated[
        str | None,
        typer.Option(
            metavar="R,…",
            help="Video rates. Default: 2 (llama-mtsk and omni-avsr: 2,5; llama-avsr without sound: 5). Where tokens "
            "are stacked, the weights tell.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    lora_scale: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Factor of the language model's LoRA, ALPHA / RANK of its training. Default: 0.125, as published.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Experts that llama-smop's router chooses for a token. Default: 2, as published.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    speech_rate: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT", help="The checkpoint of mms-llama's speech-rate predictor.", rich_help_panel=_PANEL
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint of another program to a model folder, and report what became of its tensors.

    av-hubert: AV-HuBERT as published for fairseq, pre-trained or fine-tuned (only the encoder is converted). The
    folder is a video encoder: name it in a recipe as model.video_encoder, or load it with AVHubertModel.

    llama-avsr, llama-mtsk, omni-avsr, llama-smop: a whole recogniser (.pth) of the code published with the papers, for
    sound, lips or both. The folder is a model for 'mome transcribe' and all else. A backbone whose own weights are on
    this machine, as a folder or in the hub's cache, and equal to those in the file is referred to; the others are
    stored in the folder.

    mms-llama: fairseq's checkpoint of MMS-LLaMA, which holds only what was trained. The folder refers to the backbones,
    all of which must be named, as must the checkpoint of its speech-rate predictor (--speech-rate).

    Nothing of the file is executed: a checkpoint that asks for more than weights and settings is refused. The
    weights keep their licence, which the folder's README.md names.

    Example: mome convert av-hubert large_vox_iter5.pt models/av-hubert-large

    Example: mome convert omni-avsr omni.pth models/omni --language-model meta-llama/Llama-3.2-1B
    --audio-encoder openai/whisper-medium.en --video-encoder models/av-hubert-large
    """
    quiet()
    given = {
        "language_model": language_model,
        "audio_encoder": audio_encoder,
        "video_encoder": video_encoder,
        "audio_rates": _integers("--audio-rates", audio_rates),
        "video_rates": _integers("--video-rates", video_rates),
        "lora_scale": lora_scale,
        "top_k": top_k,
        "speech_rate": speech_rate,
    }
    given = {name: value for name, value in given.items() if value is not None}
    account = _convert(kind, checkpoint, out, given)
    if json:
        result(to_json({"kind": kind, "checkpoint": str(checkpoint), "folder": str(out), **account.to_json()}))
    else:
        result("\n".join([*account.lines(), f"wrote: {out}"]))


def _convert(kind: Kind, checkpoint: Path, out: Path, given: dict[str, Any]) -> Account:
    wrong = next((name for name in given if kind not in _kinds(name)), None)
    if wrong is not None:
        raise MomeError(f"{_option(wrong)} is not for {kind}, but for {', '.join(_kinds(wrong))}: leave it out")
    if kind == "av-hubert":
        from mome.convert import avhubert

        return avhubert.convert(checkpoint, out)
    if kind == "mms-llama":
        from mome.convert import mms

        for name, example in _NEEDED_BY_MMS.items():
            if name not in given:
                raise MomeError(f"{kind} needs {_option(name)}, such as {example}: its checkpoint is without that part")
        return mms.convert(checkpoint, out, mms.Sources(**given))
    from mome.convert import avsr

    if "language_model" not in given:
        raise MomeError(f"{kind} needs --language-model ID, such as meta-llama/Llama-3.2-1B: its tokenizer is needed")
    return avsr.convert(kind, checkpoint, out, avsr.Sources(**given))


def _kinds(option: str) -> tuple[Kind, ...]:
    """The kinds of checkpoint that an option is for."""
    if option == "speech_rate":
        return ("mms-llama",)
    systems: tuple[Kind, ...] = get_args(System)
    return systems if option in ("audio_rates", "video_rates", "top_k") else (*systems, "mms-llama")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _integers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and 0 < int(part[:10]) < 10**9 for part in parts):
        raise MomeError(f"{option} {text} is not possible: give whole numbers from 1 up with commas, such as 4,16")
    return [int(part) for part in parts]
