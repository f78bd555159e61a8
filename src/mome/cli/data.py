"""``mome data``: manifests and synthetic clips."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mome.cli.command import Command
from mome.cli.output import check_writable, failure_lines, note, result
from mome.errors import MomeError, in_one_line, listed
from mome.files import write_text

MEDIA = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".wav",
        ".flac",
        ".mp3",
        ".m4a",
        ".aac",
        ".ogg",
        ".opus",
    ]
)

SOME_FAILED = 1

data_app = typer.Typer(help="Make manifests (lists of clips for training and evaluation) and synthetic clips.")

Manifest = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="CSV", help="The manifest to write: id, path, split, text."),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to search, with all below it.")]


@data_app.command(cls=Command)
def synthesize(
    text: Annotated[
        str | None,
        typer.Argument(help="A GRID sentence, such as 'bin blue at f two now'.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="MP4", help="The file to write; a folder for --count.", show_default=False),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help="Make so many clips of random sentences, with a manifest, instead of one.", show_default=False
        ),
    ] = None,
    voice: Annotated[
        str | None, typer.Option(help="Who speaks; the seed draws one by default.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws face, room and manner of speaking.")] = 0,
    voices: Annotated[bool, typer.Option("--voices", help="List the voices and stop.")] = False,
) -> None:
    """Make a video of a talking mouth that says a sentence; the same seed is the same talker.

    Needs: pip install 'mome[synthesis]'

    Example: mome data synthesize "bin blue at f two now" -o clip.mp4
    """
    from mome.synthesis import VOICES, write_clip
    from mome.synthesis import synthesize as make
    from mome.synthesis.corpus import synthesize_corpus

    if voices:
        result("\n".join(VOICES))
        return
    if count is not None:
        if text is not None or out is None:
            raise MomeError("--count draws the sentences: mome data synthesize --count 24 -o FOLDER")
        note(f"wrote {synthesize_corpus(out, count, voice, seed)}")
        return
    if text is None or out is None:
        raise MomeError('synthesize needs a sentence and a file: mome data synthesize "SENTENCE" -o clip.mp4')
    check_writable(out)
    write_clip(make(text, voice, seed), out)
    note(f"wrote {out}")


@data_app.command(cls=Command)
def folder(
    directory: Folder,
    out: Manifest,
    split: Annotated[str, typer.Option(help="The split that all clips are put in.")] = "test",
) -> None:
    """List the media files of a folder that have a transcript beside them: clip.mp4 and clip.txt.

    A transcript is plain text, or an annotation of LRS2 or LRS3, of which the line 'Text:' is taken. A clip whose
    transcript is neither does not stop the others: it is listed at the end, and the exit code is 1. Hidden files and
    folders are passed over.
    """
    from mome.text.sentence import read_sentence

    check_writable(out)
    if _unlistable(split) or not split:
        raise MomeError(f"--split {split!r} is not possible: give a name, without spaces at its ends")
    rows, untold = [], []
    failures: list[tuple[str, str]] = []
    found = _media(directory, failures)
    for path in found:
        try:
            beside = path.with_suffix(".txt")
            text = read_sentence(beside if beside.exists() else path.with_suffix(".TXT"))
        except FileNotFoundError:
            text = ""
        except Exception as error:
            failures.append((str(path), in_one_line(error)))
            continue
        if text:
            rows.append((path, split, text))
        else:
            untold.append(path)
    _write_manifest(directory, out, rows, untold, "without a transcript beside them (NAME.txt)", failures)


@data_app.command(cls=Command)
def grid(
    directory: Folder,
    out: Manifest,
    valid: Annotated[float, typer.Option(min=0, max=1, help="Part of the sentences for validation.")] = 0.1,
    test: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the sentences for the test; see --test-talker.")
    ] = 0.1,
    test_talker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Folder of a talker for the test alone, instead of a part of the sentences. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws which sentence goes into which split.")] = 0,
) -> None:
    """List the clips of the GRID corpus: one folder for each talker, the sentence told by the file name.

    No sentence is in two of the splits train, valid and test. With --test-talker the test is about unseen
    talkers, whose sentences others may say in training too.
    """
    from mome.text.grid import decode_name

    if valid + test > 1:
        raise MomeError(f"--valid {valid:g} and --test {test:g} are more than all sentences: lower one of them")
    check_writable(out)
    failures: list[tuple[str, str]] = []
    found = _media(directory, failures)
    talkers = set(test_talker or ())
    missing = talkers - {path.parent.name for path in found}
    if missing:
        raise MomeError(f"{directory} has no talker folder {', '.join(sorted(missing))} with clips in it")
    rows, foreign = [], []
    for path in found:
        try:
            text = decode_name(path.stem)
        except MomeError:
            foreign.append(path)
            continue
        if talkers:
            split = "test" if path.parent.name in talkers else _split(text, valid, 0.0, seed)
        else:
            split = _split(text, valid, test, seed)
        rows.append((path, split, text))
    _write_manifest(directory, out, rows, foreign, "whose names are no GRID sentence", failures)


def _split(sentence: str, valid: float, test: float, seed: int) -> str:
    """The split of a sentence, which depends on nothing but the sentence and the seed."""
    digest = hashlib.blake2b(f"{seed}:{sentence}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test:
        return "test"
    return "valid" if place < test + valid else "train"


def _media(directory: Path, failures: list[tuple[str, str]]) -> list[Path]:
    """Media files below a folder, in order of their names, without hidden ones and those in hidden folders.

    Folders that cannot be read go to ``failures``, with the reason.
    """
    if not directory.is_dir():
        raise MomeError(f"{directory} is not a folder: give the folder that the clips are in")
    found = []
    errors: list[OSError] = []
    for parent, folders, files in os.walk(directory, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in MEDIA and path.is_file()]
    failures += [(str(error.filename), f"{error.filename}: {error.strerror}") for error in errors]
    if not found:
        reason = f" ({failures[0][1]})" if failures else ""
        raise MomeError(f"{directory} has no video or audio files in it{reason}")
    return sorted(found)


def _write_manifest(
    directory: Path,
    out: Path,
    rows: Iterable[tuple[Path, str, str]],
    left_out: Sequence[Path],
    why: str,
    failures: Sequence[tuple[str, str]],
) -> None:
    """Write clips, splits and texts; paths are relative to the manifest, so both can be moved together.

    Args:
        directory: the clips' names are relative to it.
        out: the manifest.
        rows: path, split and text of each clip.
        left_out: other files.
        why: they are left out.
        failures: names and reasons of files that could not be read.
    """
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(("id", "path", "split", "text"))
    failures = list(failures)
    taken: dict[str, Path] = {}
    splits: Counter[str] = Counter()
    for path, split, text in rows:
        name = "_".join(path.relative_to(directory).with_suffix("").parts)
        relative = Path(os.path.relpath(path.resolve(), out.parent.resolve())).as_posix()
        if reason := _unlistable(relative) or _unlistable(name):
            failures.append((str(path), reason))
            continue
        if name in taken:
            raise MomeError(f"{taken[name]} and {path} would both be clip {name}: rename one of them")
        taken[name] = path
        splits[split] += 1
        writer.writerow((name, relative, split, text))
    skipped = f"{len(left_out)} files {why}: {listed(left_out)}" if left_out else ""
    lines = failure_lines(failures)
    if not taken:
        reasons = "; ".join(filter(None, [skipped, *lines[:1]]))
        raise MomeError(f"no clip of {directory} can be listed, so {out} was not written: {reasons}")
    write_text(out, sheet.getvalue())
    counts = ", ".join(f"{split} {number}" for split, number in sorted(splits.items()))
    note(f"wrote {out}: {len(taken)} clips ({counts})")
    if skipped:
        note(f"left out {skipped}")
    if failures:
        note(f"{len(failures)} of {len(taken) + len(left_out) + len(failures)} files could not be listed:")
        for line in lines:
            note(line)
        raise typer.Exit(SOME_FAILED)


def _unlistable(path: str) -> str:
    """Why a path cannot stand in a manifest, a CSV file in UTF-8 whose fields are stripped; empty if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "the name is not in UTF-8: rename it"
    if path != path.strip() or any(not character.isprintable() for character in path):
        return "the name has a space at its end or a control character in it: rename it"
    return ""
