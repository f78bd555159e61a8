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
Kind = Literal["av-hubert", System]

_PANEL = "Of a whole recogniser"


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
        typer.Option(metavar="ID", help="Its Whisper or WavLM, a hub id or folder.", rich_help_panel=_PANEL),
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
    json: Json = False,
) -> None:
    """Convert a checkpoint of another program to a model folder, and report what became of its tensors.

    av-hubert: AV-HuBERT as published for fairseq, pre-trained or fine-tuned (only the encoder is converted). The
    folder is a video encoder: name it in a recipe as model.video_encoder, or load it with AVHubertModel.

    llama-avsr, llama-mtsk, omni-avsr, llama-smop: a whole recogniser (.pth) of the code published with the papers, for
    sound, lips or both. The folder is a model for 'mome transcribe' and all else. A backbone whose own weights are on
    this machine, as a folder or in the hub's cache, and equal to those in the file is referred to; the others are
    stored in the folder.

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
    }
    given = {name: value for name, value in given.items() if value is not None}
    account = _convert(kind, checkpoint, out, given)
    if json:
        result(to_json({"kind": kind, "checkpoint": str(checkpoint), "folder": str(out), **account.to_json()}))
    else:
        result("\n".join([*account.lines(), f"wrote: {out}"]))


def _convert(kind: Kind, checkpoint: Path, out: Path, given: dict[str, Any]) -> Account:
    if kind == "av-hubert":
        from mome.convert.avhubert import convert

        if given:
            option = next(iter(given)).replace("_", "-")
            raise MomeError(f"--{option} is not for av-hubert, but for {', '.join(get_args(System))}: leave it out")
        return convert(checkpoint, out)
    from mome.convert.avsr import Sources
    from mome.convert.avsr import convert as convert_recogniser

    if "language_model" not in given:
        raise MomeError(f"{kind} needs --language-model ID, such as meta-llama/Llama-3.2-1B: its tokenizer is needed")
    return convert_recogniser(kind, checkpoint, out, Sources(**given))


def _integers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and 0 < int(part[:10]) < 10**9 for part in parts):
        raise MomeError(f"{option} {text} is not possible: give whole numbers from 1 up with commas, such as 4,16")
    return [int(part) for part in parts]
