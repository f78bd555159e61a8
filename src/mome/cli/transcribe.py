"""``mome transcribe``: from files to text, subtitles or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.bulk import TRANSCRIPTS, transcribe_manifest
from mome.cli.inputs import Input, find_inputs, parse_input
from mome.cli.options import (
    Beams,
    Bits,
    Compat,
    CtcWeight,
    Device,
    Dtype,
    Json,
    Model,
    Noise,
    Ray,
    Seed,
    TopK,
    check_compat,
    check_ctc_weight,
    check_device,
    check_noise,
    check_top_k,
    decoding,
    load_model,
    read_config,
)
from mome.cli.output import FilesProgress, failure_lines, note, quiet, result, to_json
from mome.errors import MomeError, in_one_line, listed
from mome.files import write_text
from mome.rates import Rates

if TYPE_CHECKING:
    from mome.config.fields import Compatibility
    from mome.decoding import Interrupted, Transcriber
    from mome.media import Clip
    from mome.text.transcript import Transcript

Format = Literal["text", "srt", "vtt", "tsv", "json", "jsonl", "all"]
_EXTENSIONS: dict[Format, str] = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt", "tsv": "tsv"}
_SUBTITLES: tuple[Format, ...] = ("srt", "vtt", "tsv")
BATCH_FAILED, FAILED = 1, 2

Deliver = Callable[[Input, "Sequence[Transcript] | Interrupted | Exception"], None]


def transcribe(
    inputs: Annotated[
        list[Path],  # or strings, see parse_input: typer knows no unions, and shows this in the help
        typer.Argument(
            metavar="INPUT...",
            help="Video or audio files; folders, with all that is below; patterns such as 'talks/**/*.mp4'; http and "
            "https addresses; - for standard input.",
            parser=parse_input,
            show_default=False,
        ),
    ],
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
        typer.Option(
            "--format",
            "-f",
            help="What to print; jsonl: a line of JSON for each transcript or failure as soon as it is known; all: one "
            "file of each kind, with --output-dir.",
        ),
    ] = "text",
    json: Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="The same as --format jsonl.")] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "--out",
            "-o",
            metavar="DIR",
            help="Write NAME.txt, NAME.srt, NAME.vtt, NAME.tsv or NAME.json there for each clip instead of printing; "
            "what is below a folder stays so.",
        ),
    ] = None,
    ray: Ray = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out clips whose files are all in --output-dir already.")
    ] = False,
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
    max_segment: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest part of a recording that is transcribed at once. Default: as in the model's training.",
        ),
    ] = None,
    vad: Annotated[
        bool,
        typer.Option("--vad/--no-vad", help="Cut recordings where nobody speaks, or take them as ready-cut clips."),
    ] = True,
    batch_size: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", help="Parts of a recording that are transcribed together.")
    ] = 8,
    face: Annotated[
        Literal["largest", "left", "right", "all"],
        typer.Option(help="Whose lips are read if there are several faces; all: one transcript for each that speaks."),
    ] = "largest",
    noise: Noise = None,
    snr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Speech to noise in dB, such as 0 or -5; needs --noise."),
    ] = None,
    beams: Beams = None,
    top_k: TopK = None,
    ctc_weight: CtcWeight = None,
    compat: Compat = None,
    dtype: Dtype = "float32",
    bits: Bits = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Transcribe video and audio files.

    One clip at one rate prints its text alone. Several print one line each: file, rates and text, with a tab
    between. If a video has no sound, only the lips are read; if there is no video, only the sound is used.

    A file that cannot be read does not stop the others: it is listed at the end, and the exit code is 1. Ctrl-C keeps
    what is done, of the present file too (with --output-dir as NAME.interrupted.txt), and ends the JSON document.

    Examples: mome transcribe clip.mp4 --rates 16,5 or mome transcribe talks/ -f srt -o subtitles --skip-existing
    """
    if json and jsonl:
        raise MomeError("--json and --jsonl exclude each other: give one of them")
    chosen_format: Format = "json" if json else "jsonl" if jsonl else format
    if output_dir is not None and (json or chosen_format == "jsonl"):
        raise MomeError(
            f"--{'json' if json else 'jsonl'} prints JSON, --output-dir writes files: "
            "give -f json for a file of each clip, or > FILE"
        )
    if skip_existing and output_dir is None:
        raise MomeError("--skip-existing looks for files in --output-dir DIR: give it too")
    chosen = list(dict.fromkeys(map(Rates.parse, rates or ())))
    check_noise(noise, [] if snr is None else [snr])
    check_device(device)
    if every and chosen:
        raise MomeError("--rates and --all-rates exclude each other: give one of them")
    found, failures = find_inputs(inputs)
    targets = _targets(found, output_dir, chosen_format)
    quiet()
    config = read_config(model)
    check_compat(compat, model, config)
    check_top_k(top_k, model, config)
    check_ctc_weight(ctc_weight, model, config)
    for rate in chosen:
        config.rate_set.check(rate)
    chosen = list(config.rate_set.rates()) if every else chosen
    if ray is not None:
        given = {"--format, --json and --jsonl": chosen_format != "text", "--skip-existing": skip_existing}
        given |= {"--audio-track": audio_track is not None, "--max-segment": max_segment is not None}
        given |= {"--no-vad": not vad, "--face": face != "largest"}
        if unused := [name for name, is_given in given.items() if is_given]:
            raise MomeError(f"--ray transcribes the clips of a manifest to {TRANSCRIPTS}: leave out {listed(unused)}")
        if len(inputs) != 1 or Path(inputs[0]).suffix.lower() != ".csv" or output_dir is None:
            raise MomeError("--ray reads a manifest and fills a folder: mome transcribe --ray CLIPS.csv --out DIR")
        search = {"words": words, "active_experts": top_k, **decoding(beams, ctc_weight)}
        loading = {"compat": compat, "dtype": dtype, "device": device, "language_model_dtype": bits}
        files = (Path(inputs[0]), output_dir)
        raise typer.Exit(transcribe_manifest(*files, ray, model, loading, chosen, noise, snr, seed, batch_size, search))
    several = len(chosen) > 1
    single = [one.source for one in found] == inputs and len(inputs) == 1 and not several and face != "all"
    if chosen_format in _SUBTITLES and output_dir is None and (several or len(found) > 1 or face == "all"):
        raise MomeError(f"{chosen_format} on stdout is for one clip at one rate: give --output-dir DIR for several")

    left = [one for one in found if not (skip_existing and _is_done(targets[one], chosen, chosen_format))]
    if skipped := len(found) - len(left):
        note(f"{skipped} of {len(found)} clips have their files in {output_dir} already: left out")
    words = words or chosen_format in (*_SUBTITLES, "all")
    options = {
        "audio_track": audio_track,
        "max_segment": max_segment,
        "vad": vad,
        "batch": batch_size,
        "face": face,
        "words": words,
        "active_experts": top_k,
        **decoding(beams, ctc_weight),
    }
    batch = _Batch(model, chosen, options, noise, snr, compat, dtype, bits, device, seed)

    def deliver(one: Input, outcome: Sequence[Transcript] | Interrupted | Exception) -> None:
        """Print or write what became of a recording."""
        if isinstance(outcome, Exception):
            if chosen_format == "jsonl":
                result(to_json(_failure(one.name, outcome), indent=None))
            return
        target = targets.get(one, one.place)
        if isinstance(outcome, BaseException):  # under another name, which --skip-existing does not take for the whole
            outcome, target = outcome.transcripts, target.with_name(f"{target.name}.interrupted")
        if output_dir is not None:
            _write(Path(target), outcome, chosen_format, several)
        elif chosen_format == "jsonl":
            result("\n".join(to_json(transcript.to_dict(), indent=None) for transcript in outcome))
        elif chosen_format == "text" and not single:
            result("\n".join(_line(each) for each in outcome))
        elif chosen_format != "json":
            print(_formatted(outcome[0], chosen_format), end="", flush=True)

    for name, error in failures:
        batch.fail(Input(name, PurePath()), error, deliver)
    interruption = None
    try:
        batch.run(left, deliver)
    except KeyboardInterrupt as stop:
        interruption = stop
    if chosen_format == "json" and output_dir is None:
        result(to_json({**batch.document(), "interrupted": interruption is not None}))
    code = batch.finish()
    if interruption is not None:
        raise interruption
    raise typer.Exit(BATCH_FAILED if code and skipped else code)


@dataclass
class _Batch:
    """The clips of a command, with the transcripts and the failures so far.

    Attributes:
        rates: the rates of each recording; the model's finest if empty.
        options: of :meth:`~mome.decoding.Transcriber.transcribe_rates`.
        done: the transcripts.
        failures: what could not be transcribed, and why.
    """

    model: str
    rates: list[Rates]
    options: dict[str, Any]
    noise: Path | None
    snr: float | None
    compat: Compatibility | None
    dtype: str
    bits: str | None
    device: str
    seed: int
    done: list[Transcript] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)

    def run(self, inputs: Sequence[Input], deliver: Deliver) -> None:
        """Transcribe the clips one after the other and pass what becomes of each one to ``deliver`` at once."""
        if not inputs:
            return
        from mome.decoding import Interrupted

        self._noise = self._add_noise()
        transcriber = load_model(self.model, self.compat, self.dtype, self.device, self.bits)
        rates = self.rates or [transcriber.default_rates]
        with FilesProgress(_lengths(inputs)) as progress:
            for one in inputs:
                progress.begin(one.name)
                try:
                    transcripts = self._transcribe(transcriber, one, rates, progress.within)
                    with progress.paused():
                        self._show(transcripts, transcriber.model.config.description)
                        deliver(one, transcripts)
                except Interrupted as stop:
                    with progress.paused():
                        self._show(stop.transcripts, transcriber.model.config.description)
                        deliver(one, stop)
                    self.done += stop.transcripts
                    raise
                except BrokenPipeError:  # the reader of stdout has gone, which is no fault of this file
                    raise
                except Exception as error:
                    with progress.paused():
                        self.fail(one, error, deliver)
                else:
                    self.done += transcripts

    def _show(self, transcripts: Sequence[Transcript], description: str | None) -> None:
        """Show what the model is for, once, and the warnings about a recording."""
        if not self.done and description:
            note(description)
        for line in transcripts[0].warnings:
            note(f"warning: {line}")

    def fail(self, one: Input, error: Exception, deliver: Deliver) -> None:
        """Note that a recording could not be transcribed."""
        self.failures.append((one.name, error))
        deliver(one, error)

    def _add_noise(self) -> Callable[[Clip], Clip] | None:
        """A function that adds the noise to a part of a recording, if noise was given."""
        if self.noise is None or self.snr is None:
            return None
        from mome.media.noise import add_noise, load_noise

        sound, snr = load_noise(self.noise), self.snr
        return lambda clip: add_noise(clip, sound, snr, self.seed)

    def _transcribe(
        self, transcriber: Transcriber, one: Input, rates: list[Rates], progress: Callable[[float, float], None]
    ) -> list[Transcript]:
        from mome.decoding import Interrupted, people
        from mome.decoding.transcriber import named
        from mome.media.sources import opened

        options = {**self.options, "alter": self._noise, "progress": progress}
        found: dict[Any, Transcript] = {}
        with opened(one.opened()) as file:
            persons = people(file.path, transcriber.detector) if options["face"] == "all" else []
            for face, person in enumerate(persons or [None], 1):
                if options["face"] == "all":
                    options["face"] = "largest"  # nobody is seen to speak
                if person is not None:
                    options["face"] = person
                stopped = None
                try:
                    transcripts = transcriber.transcribe_rates(file.path, rates, **options)
                except Interrupted as stop:
                    stopped, transcripts = stop, stop.transcripts
                for transcript in transcripts:
                    # A recording without sound or mouth has the same rates again and again.
                    own = replace(transcript, face=None if person is None else face)
                    found[own.face, own.rates] = named(own, file)
                if stopped is not None:
                    raise Interrupted(list(found.values())) from stopped
        return list(found.values())

    def document(self) -> dict[str, Any]:
        """The JSON document of the command."""
        return {
            "model": self.model,
            **({} if (top_k := self.options["active_experts"]) is None else {"top_k": top_k}),
            "results": [transcript.to_json() for transcript in self.done],
            "failures": [_failure(*failure) for failure in self.failures],
        }

    def finish(self) -> int:
        """Print the failures; returns the exit code."""
        if len(self.done) + len(self.failures) > 1 and self.failures:
            total = len({transcript.file for transcript in self.done}) + len(self.failures)
            note(f"{len(self.failures)} of {total} files could not be transcribed:")
        for line in failure_lines((name, in_one_line(error)) for name, error in self.failures):
            note(line)
        if not self.failures:
            return 0
        return FAILED if not self.done and len(self.failures) == 1 else BATCH_FAILED


def _failure(name: str, error: Exception) -> dict[str, str]:
    return {"file": name, "error": in_one_line(error)}


def _lengths(inputs: Sequence[Input]) -> list[float | None]:
    """Seconds that the files declare, for a progress bar if there is one; None where unknown."""
    if not sys.stderr.isatty():
        return [None] * len(inputs)
    from mome.media.decode import declared_seconds

    return [declared_seconds(one.source) if isinstance(one.source, Path) else None for one in inputs]


def _targets(inputs: Sequence[Input], folder: Path | None, chosen: Format) -> dict[Input, Path]:
    """The files to write for each input, without suffix."""
    if folder is None:
        if chosen == "all":
            raise MomeError("--format all writes several files: give --output-dir DIR")
        return {}
    if folder.exists() and not folder.is_dir():
        raise MomeError(f"--output-dir {folder} is a file: give a folder")
    targets = {one: folder / one.place for one in inputs}
    taken: dict[Path, Input] = {}
    for one, target in targets.items():
        if target in taken:
            file = f"{target}.{_EXTENSIONS.get(chosen, '*')}"
            raise MomeError(f"{taken[target].name} and {one.name} would both be written to {file}: rename one of them")
        taken[target] = one
    return targets


def _files(target: Path, rates: Rates | None, chosen: Format, face: int | None = None) -> dict[Format, Path]:
    """The file of each kind for a transcript, with its rates and face in the name if there are several."""
    sides = () if rates is None else (("a", rates.audio), ("v", rates.video))
    marks = ["" if face is None else f"face{face}", "".join(f"{letter}{rate}" for letter, rate in sides if rate)]
    name = ".".join([target.name, *filter(None, marks)])
    kinds = _EXTENSIONS if chosen == "all" else (chosen,)
    return {kind: target.with_name(f"{name}.{_EXTENSIONS[kind]}") for kind in kinds}


def _is_done(target: Path, rates: Sequence[Rates], chosen: Format) -> bool:
    """Whether all files of a clip are there, or of its first face."""
    marks = rates if len(rates) > 1 else [None]
    files = [[file for mark in marks for file in _files(target, mark, chosen, face).values()] for face in (None, 1)]
    return any(all(file.is_file() for file in each) for each in files)


def _write(target: Path, transcripts: Sequence[Transcript], chosen: Format, several: bool) -> None:
    """Write the transcripts of one clip, with the rates in the file names if there are several."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MomeError(f"--output-dir {target.parent} cannot be made: {error.strerror}") from error
    for transcript in transcripts:
        for kind, file in _files(target, transcript.rates if several else None, chosen, transcript.face).items():
            write_text(file, _formatted(transcript, kind))
            note(f"wrote {file}")


def _line(transcript: Transcript) -> str:
    """File, face if there are several, rates and text."""
    face = "" if transcript.face is None else f" (face {transcript.face})"
    return f"{transcript.file}{face}\t{transcript.rates}\t{transcript.text}"


def _formatted(transcript: Transcript, chosen: Format) -> str:
    from mome.text.subtitles import to_srt, to_tsv, to_vtt

    if chosen == "text":
        return transcript.text + "\n"
    if chosen == "json":
        return to_json(transcript.to_dict(), unicode=True) + "\n"
    return {"srt": to_srt, "vtt": to_vtt, "tsv": to_tsv}[chosen](transcript.segments)
