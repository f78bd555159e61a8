"""``mome transcribe``: from files to text, subtitles or JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import (
    Beams,
    Compat,
    Dtype,
    Json,
    Model,
    Noise,
    Seed,
    TopK,
    beam_search,
    check_compat,
    check_noise,
    check_path,
    check_top_k,
    load_model,
    read_config,
)
from mome.cli.output import failure_lines, note, quiet, result, to_json
from mome.errors import MomeError, in_one_line
from mome.files import write_text
from mome.rates import Rates

if TYPE_CHECKING:
    from mome.config.fields import Compatibility
    from mome.decoding import Transcriber
    from mome.media import Clip
    from mome.text.transcript import Transcript

Format = Literal["text", "json", "srt", "vtt", "tsv", "all"]
_EXTENSIONS: dict[Format, str] = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt", "tsv": "tsv"}
_SUBTITLES: tuple[Format, ...] = ("srt", "vtt", "tsv")
BATCH_FAILED, FAILED = 1, 2


def transcribe(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Video or audio files.", show_default=False)],
    model: Model = BUNDLED_NAME,
    rates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,V",
            help="Audio and video rate, such as 4,2 (listen and read lips), 4,- (listen) or -,2 (read lips). "
            "Repeatable. Default: the model's finest.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all-rates", help="All rates of the model for which the clip has sound or video.")
    ] = False,
    format: Annotated[
        Format,
        typer.Option("--format", "-f", help="What to print; all: one file of each kind, with --output-dir."),
    ] = "text",
    json: Json = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            metavar="DIR",
            help="Write NAME.txt, NAME.srt, NAME.vtt or NAME.tsv there for each clip instead of printing.",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="In JSON, each word's time and probability, which subtitles have from the same source."
        ),
    ] = False,
    audio_track: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Which sound track to use of a file that has several: 0 is the first. Default: the file's own.",
        ),
    ] = None,
    noise: Noise = None,
    snr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Speech to noise in dB, such as 0 or -5; needs --noise."),
    ] = None,
    beams: Beams = None,
    top_k: TopK = None,
    compat: Compat = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
) -> None:
    """Transcribe video and audio files.

    One clip at one rate prints its text alone. Several print one line each: file, rates and text, with a tab
    between. If a video has no sound, only the lips are read; if there is no video, only the sound is used.

    A file that cannot be read does not stop the others: it is listed at the end, and the exit code is 1. Ctrl-C ends
    the JSON document after the files that are done.

    Examples: mome transcribe clip.mp4 --rates 16,5 or mome transcribe *.mp4 --format srt -o subtitles
    """
    chosen_format: Format = "json" if json else format
    chosen = list(dict.fromkeys(map(Rates.parse, rates or ())))
    check_noise(noise, [] if snr is None else [snr])
    if every and chosen:
        raise MomeError("--rates and --all-rates exclude each other: give one of them")
    targets = _targets(inputs, output_dir, chosen_format)
    quiet()
    config = read_config(model)
    check_compat(compat, model, config)
    check_top_k(top_k, model, config)
    for rate in chosen:
        config.rate_set.check(rate)
    chosen = list(config.rate_set.rates()) if every else chosen
    single = len(inputs) == 1 and len(chosen) <= 1
    if chosen_format in _SUBTITLES and output_dir is None and not single:
        raise MomeError(f"{chosen_format} on stdout is for one clip at one rate: give --output-dir DIR for several")

    words = words or chosen_format in (*_SUBTITLES, "all")
    batch = _Batch(model, chosen, audio_track, words, noise, snr, beams, top_k, compat, dtype, seed)

    def deliver(path: Path, transcripts: Sequence[Transcript]) -> None:
        if output_dir is not None:
            _write(targets[path], transcripts, chosen_format, len(chosen) > 1)
        elif chosen_format == "text" and not single:
            result("\n".join(f"{path}\t{transcript.rates}\t{transcript.text}" for transcript in transcripts))
        elif chosen_format != "json":
            print(_formatted(transcripts[0], chosen_format), end="", flush=True)

    interruption = None
    try:
        batch.run(inputs, deliver)
    except KeyboardInterrupt as stop:
        interruption = stop
    if chosen_format == "json":
        result(to_json({**batch.document(), "interrupted": interruption is not None}))
    if interruption is not None:
        raise interruption
    raise typer.Exit(batch.finish())


@dataclass
class _Batch:
    """The clips of a command, with the transcripts and the failures so far.

    Attributes:
        rates: the rates of each clip; the model's finest if empty.
        done: the transcripts.
        failures: files that could not be transcribed, and why.
    """

    model: str
    rates: list[Rates]
    audio_track: int | None
    words: bool
    noise: Path | None
    snr: float | None
    beams: int | None
    top_k: int | None
    compat: Compatibility | None
    dtype: str
    seed: int
    done: list[Transcript] = field(default_factory=list)
    failures: list[tuple[Path, Exception]] = field(default_factory=list)

    def run(self, paths: Sequence[Path], deliver: Callable[[Path, Sequence[Transcript]], None]) -> None:
        """Transcribe the clips one after the other and pass each one's transcripts to ``deliver`` at once."""
        add_noise = self._noise()
        transcriber = load_model(self.model, self.compat, self.dtype)
        rates = self.rates or [transcriber.default_rates]
        for path in paths:
            try:
                transcripts = self._transcribe(transcriber, path, rates, add_noise)
                if not self.done and transcriber.model.config.description:
                    note(transcriber.model.config.description)
                for line in transcripts[0].warnings:
                    note(f"warning: {line}")
                deliver(path, transcripts)
            except BrokenPipeError:  # the reader of stdout has gone, which is no fault of this file
                raise
            except Exception as error:
                self.failures.append((path, error))
            else:
                self.done += transcripts

    def _noise(self) -> Callable[[Clip], Clip]:
        """A function that adds the noise to a clip, if noise was given."""
        if self.noise is None or self.snr is None:
            return lambda clip: clip
        from mome.media.noise import add_noise, load_noise

        sound, snr = load_noise(self.noise), self.snr
        return lambda clip: add_noise(clip, sound, snr, self.seed)

    def _transcribe(
        self, transcriber: Transcriber, path: Path, rates: list[Rates], add_noise: Callable[[Clip], Clip]
    ) -> list[Transcript]:
        from mome.decoding.transcriber import available_rates

        check_path(path)
        began = time.perf_counter()
        clip = add_noise(transcriber.load_clip(path, rates, audio_track=self.audio_track))
        seconds = time.perf_counter() - began
        available = [pair for pair in dict.fromkeys(available_rates(clip, pair) for pair in rates) if pair is not None]
        options: dict[str, Any] = {"words": self.words, "active_experts": self.top_k, **beam_search(self.beams)}
        return transcriber.transcribe_rates(clip, available or rates, seconds, **options)

    def document(self) -> dict[str, Any]:
        """The JSON document of the command."""
        return {
            "model": self.model,
            **({} if self.top_k is None else {"top_k": self.top_k}),
            "results": [transcript.to_json() for transcript in self.done],
            "failures": [{"file": str(path), "error": in_one_line(error)} for path, error in self.failures],
        }

    def finish(self) -> int:
        """Print the failures; returns the exit code."""
        if len(self.done) + len(self.failures) > 1 and self.failures:
            total = len({transcript.file for transcript in self.done}) + len(self.failures)
            note(f"{len(self.failures)} of {total} files could not be transcribed:")
        for line in failure_lines((str(path), in_one_line(error)) for path, error in self.failures):
            note(line)
        if not self.failures:
            return 0
        return FAILED if not self.done and len(self.failures) == 1 else BATCH_FAILED


def _targets(inputs: Sequence[Path], folder: Path | None, chosen: Format) -> dict[Path, Path]:
    """The file to write for each input."""
    if folder is None:
        if chosen == "all":
            raise MomeError("--format all writes several files: give --output-dir DIR")
        return {}
    if chosen == "json":
        raise MomeError("--output-dir is for text, subtitles and all: JSON is one document, so use --json > FILE")
    if folder.exists() and not folder.is_dir():
        raise MomeError(f"--output-dir {folder} is a file: give a folder")
    targets = {path: folder / f"{path.stem}.{_EXTENSIONS.get(chosen, '*')}" for path in inputs}
    taken: dict[Path, Path] = {}
    for path, target in targets.items():
        if target in taken:
            raise MomeError(f"{taken[target]} and {path} would both be written to {target}: rename one of them")
        taken[target] = path
    return targets


def _write(target: Path, transcripts: Sequence[Transcript], chosen: Format, several: bool) -> None:
    """Write the transcripts of one clip, with the rates in the file names if there are several."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MomeError(f"--output-dir {target.parent} cannot be made: {error.strerror}") from error
    for transcript in transcripts:
        sides = (("a", transcript.rates.audio), ("v", transcript.rates.video))
        mark = "".join(f"{letter}{rate}" for letter, rate in sides if rate)
        path = target.with_name(f"{target.stem}.{mark}{target.suffix}") if several else target
        for kind in _EXTENSIONS if chosen == "all" else (chosen,):
            file = path.with_suffix(f".{_EXTENSIONS[kind]}")
            write_text(file, _formatted(transcript, kind))
            note(f"wrote {file}")


def _formatted(transcript: Transcript, chosen: Format) -> str:
    from mome.text.subtitles import to_srt, to_tsv, to_vtt

    if chosen == "text":
        return transcript.text + "\n"
    if chosen == "json":
        return to_json(transcript.to_dict(), unicode=True) + "\n"
    return {"srt": to_srt, "vtt": to_vtt, "tsv": to_tsv}[chosen](transcript.segments)
