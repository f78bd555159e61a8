"""``mome demo``: transcripts and costs of one clip at each rate, clean and in noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import Json, Model, Seed, load_model, read_config
from mome.cli.output import gflops, note, quiet, result, table, to_json
from mome.errors import MomeError

if TYPE_CHECKING:
    from mome.media import Clip
    from mome.text.transcript import Transcript

SHIPPED = Path(__file__).resolve().parents[1] / "demo"


def demo(
    clip: Annotated[
        Path | None, typer.Argument(help="A clip of your own instead of the shipped one.", show_default=False)
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="What is said in your clip, for the word error rate.", show_default=False),
    ] = None,
    model: Model = BUNDLED_NAME,
    snr: Annotated[float, typer.Option(min=-50, max=50, metavar="DB", help="Speech to noise in dB.")] = 0.0,
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Transcribe one clip at every rate, clean and in noise, and show what each costs.

    The shipped clip is synthetic: a talking mouth made by mome data synthesize. The noise is steady noise
    with the long-term spectrum of the clip's own speech.
    """
    if clip is None:
        if text is not None:
            raise MomeError("--text belongs to a clip of your own: give the clip too")
        clip, text = SHIPPED / "clip.mp4", (SHIPPED / "clip.txt").read_text(encoding="utf-8").strip()
    quiet()
    rate_set = read_config(model).rate_set
    transcriber = load_model(model)
    rates = rate_set.main_rates()
    loaded = transcriber.load_clip(clip, rates)
    rows: list[tuple[float | None, Transcript]] = []
    for level, noisy in _sounds(loaded, snr, seed):
        # A pass that is not counted: the first one in a process also sets up kernels and memory.
        transcriber.transcribe_rates(noisy, rates[-1:])
        by_rates = {transcript.rates: transcript for transcript in transcriber.transcribe_rates(noisy, rates)}
        rows += [(level, transcript) for transcript in by_rates.values()]
    errors = [None if text is None else _word_error_rate(text, transcript.text) for _, transcript in rows]
    if json:
        results = [
            {"snr_db": level, "wer": error, **transcript.to_json()}
            for (level, transcript), error in zip(rows, errors, strict=True)
        ]
        result(to_json({"model": model, "clip": str(clip), "text": text, "results": results}))
    else:
        said = "" if text is None else f'\nsaid:  "{text}"'
        result(f"model: {model}\nclip:  {clip} ({loaded.seconds:.1f} s){said}\n\n{_readable(rows, errors)}")
    for line in dict.fromkeys(line for _, transcript in rows for line in transcript.warnings):
        note(f"warning: {line}")
    if transcriber.model.config.description:
        note(transcriber.model.config.description)


def _sounds(clip: Clip, snr: float, seed: int) -> list[tuple[float | None, Clip]]:
    """The clip as it is and, if it has sound, in noise, each with its SNR in dB (``None``: clean)."""
    if clip.audio is None:
        return [(None, clip)]
    import numpy as np

    from mome.media.noise import add_noise, speech_shaped_noise

    noise = speech_shaped_noise(clip.audio, np.random.default_rng(seed))
    return [(None, clip), (snr, add_noise(clip, noise, snr, seed))]


def _word_error_rate(said: str, recognised: str) -> float:
    from mome.text.wer import word_errors

    return word_errors([said], [recognised])[0].wer


def _readable(rows: Sequence[tuple[float | None, Transcript]], errors: Sequence[float | None]) -> str:
    header = ("sound", "rates", "tokens", "GFLOPs", "seconds", "WER %", "transcript")
    return table(header, [_cells(*row, error) for row, error in zip(rows, errors, strict=True)], left=2)


def _cells(level: float | None, transcript: Transcript, error: float | None) -> tuple[Any, ...]:
    return (
        "clean" if level is None else f"{level:g} dB",
        str(transcript.rates),
        str(transcript.tokens.total),
        gflops(transcript.tflops),
        f"{transcript.seconds.encode + transcript.seconds.decode:.2f}",
        "-" if error is None else f"{100 * error:.0f}",
        transcript.text,
    )
