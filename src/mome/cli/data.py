"""``mome data``: manifests, prepared corpora and synthetic clips."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome.cli.options import Command, Ray
from mome.cli.output import check_writable, failure_lines, note, progress, result
from mome.errors import MomeError, listed

if TYPE_CHECKING:
    from mome.data.corpora import Corpus

SOME_FAILED = 1
_LISTED = 10  # reasons on the terminal

data_app = typer.Typer(
    help="Manifests (lists of clips for training and evaluation), prepared corpora, synthetic clips."
)

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
        typer.Option(min=1, help="Make this number of clips of random sentences, with a manifest.", show_default=False),
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

    A transcript is plain text, or an annotation of LRS2 or LRS3 with a line 'Text:'. Clips with another transcript
    are listed at the end, and the exit code is 1. Hidden files and folders are skipped.
    """
    from mome.data.corpora import folder_corpus

    _check_manifest(out)
    _check_split(split)
    _write_manifest(directory, out, folder_corpus(directory, split), "without a transcript beside them (NAME.txt)")


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
    """List the clips of the GRID corpus: one folder for each talker, the sentence in the file name.

    No sentence is in two of the splits train, valid and test. With --test-talker the test is about unseen
    talkers, whose sentences others may say in training too.
    """
    from mome.data.corpora import grid_corpus

    if valid + test > 1:
        raise MomeError(f"--valid {valid:g} and --test {test:g} are more than all sentences: lower one of them")
    _check_manifest(out)
    found = grid_corpus(directory, valid=valid, test=test, test_talkers=test_talker or (), seed=seed)
    _write_manifest(directory, out, found, "whose names are no GRID sentence")


@data_app.command(cls=Command)
def lrs3(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Has the folders pretrain, trainval and test.")],
    out: Manifest,
    valid_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="TXT",
            help="Names the clips for validation, lines like trainval/ID/00001. Default: the 1200 clips that AV-HuBERT "
            "and most systems since use; where none of them is there, about as many are drawn by talk.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the clips of LRS3; pretrain is cut between words into pieces of at most 16 s.

    The splits are train (pretrain and trainval), valid (a part of trainval) and test.
    """
    from mome.data.corpora import lrs3_corpus

    check_writable(out, valid_ids)
    _write_manifest(directory, out, lrs3_corpus(directory, valid_ids), "")


@data_app.command(cls=Command)
def lrs2(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder mvlrs_v1, or the one that it is in.")],
    out: Manifest,
) -> None:
    """List the clips of LRS2 by its lists pretrain.txt, train.txt, val.txt and test.txt; pretrain is cut as for lrs3.

    The splits are train (pretrain and train), valid and test.
    """
    from mome.data.corpora import lrs2_corpus

    _check_manifest(out)
    _write_manifest(directory, out, lrs2_corpus(directory), "")


@data_app.command(cls=Command, name="auto-avsr")
def auto_avsr(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Root of the data that auto_avsr prepared.")],
    labels: Annotated[
        Path, typer.Option(metavar="CSV", help="Its list of labels: dataset,path,frames,token ids[,text].")
    ],
    out: Manifest,
    split: Annotated[str, typer.Option(help="The split that all clips are put in.")] = "train",
) -> None:
    """List mouth crops that auto_avsr prepared, with the sound beside them.

    Token ids are not read: the text comes from the fifth field, or from the preparation's text files.
    """
    from mome.data.corpora import auto_avsr_corpus

    check_writable(out, labels)
    _check_split(split)
    _write_manifest(directory, out, auto_avsr_corpus(directory, labels, split), "")


@data_app.command(cls=Command)
def librispeech(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Has train-clean-100, dev-clean and the like.")],
    out: Manifest,
) -> None:
    """List the sound files of LibriSpeech: all train folders are the split train, others have their own names."""
    from mome.data.corpora import librispeech_corpus

    _check_manifest(out)
    _write_manifest(directory, out, librispeech_corpus(directory), "that have no words")


@data_app.command(cls=Command)
def prepare(
    data: Annotated[Path, typer.Argument(metavar="CSV", help="The manifest of the clips to prepare.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    ray: Ray = None,
    shard: Annotated[
        str,
        typer.Option(metavar="K/N", help="Prepare only the K-th of N shares: each of N machines takes another."),
    ] = "1/1",
) -> None:
    """Find the faces, crop the mouths and read the sound of all clips, once and for all, in all splits.

    DIR gets tar files in the layout of WebDataset, with mouth crops as H.264 and sound as FLAC, and, once all of them
    are there, manifest.csv, which training and evaluation read as any other. Clips that cannot be prepared are listed
    in failures.csv, and the exit code is 1. After an interruption of any kind, run the same command again.

    Examples: mome data prepare lrs3.csv --out prepared --workers 8 or mome data prepare lrs3.csv --out prepared --ray
    """
    from mome.data.manifests import read_manifest
    from mome.data.prepare import FAILURES, MANIFEST, shards
    from mome.data.prepare import prepare as run

    if out.exists() and not out.is_dir():
        raise MomeError(f"--out {out} is a file: give a folder")
    if (out / MANIFEST).resolve() == data.resolve():
        raise MomeError(f"{data} would be overwritten by the manifest of --out {out}: give another folder")
    if ray is not None and workers > 1:
        raise MomeError(f"--workers {workers} and --ray exclude each other: give one of them")
    share = _share(shard)
    work = shards(read_manifest(data, silence=True, missing_files=True))
    with progress("preparing") as bar:
        done = run(work, out, workers, share, bar, ray)
    if done.missing:
        note(f"{out} has {len(work) - done.missing} of {len(work)} tar files: {MANIFEST} is written when all are there")
    elif done.clips:
        note(f"wrote {out / MANIFEST}: {done.clips} clips in {len(work)} tar files")
    lines = failure_lines(done.failures)
    if lines:
        note(f"{len(done.failures)} of {done.clips + len(done.failures)} clips could not be prepared:")
        for line in lines[:_LISTED]:
            note(line)
        if len(lines) > _LISTED:
            note(f"and {len(lines) - _LISTED} more: {out / FAILURES} has all once all tar files are there")
    if not done.missing and not done.clips:
        raise MomeError(f"no clip of {data} could be prepared, so {out / MANIFEST} was not written")
    if lines:
        raise typer.Exit(SOME_FAILED)


def _share(text: str) -> tuple[int, int]:
    """The share that ``--shard`` names, and of how many."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    share, number = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= number:
        raise MomeError(f"--shard {text} is not possible: give 1/4, 2/4, 3/4 or 4/4 for the shares of four machines")
    return share, number


def _check_split(split: str) -> None:
    from mome.data.manifests import unlistable

    if unlistable(split) or not split:
        raise MomeError(f"--split {split!r} is not possible: give a name, without spaces at its ends")


def _check_manifest(out: Path) -> None:
    """Check that a manifest can be written, and replaces nothing but one; raises :class:`MomeError` if not."""
    from mome.data.manifests import COLUMNS
    from mome.data.tables import has_columns

    check_writable(out)
    if out.exists() and out.stat().st_size and not has_columns(out, COLUMNS):
        raise MomeError(f"{out} is no manifest, and would be overwritten: give another file to write")


def _write_manifest(directory: Path, out: Path, found: Corpus, why: str) -> None:
    """Write a manifest and report files that are not in it, ``found.left_out`` with the reason ``why``."""
    from mome.data.manifests import write_failures, write_manifest

    rows, unlisted = write_manifest(out, found.rows)
    failures = found.failures + unlisted
    skipped = f"{len(found.left_out)} files {why}: {listed(found.left_out)}" if found.left_out else ""
    lines = failure_lines(failures)
    if not rows:
        reasons = "; ".join(filter(None, [skipped, *lines[:1]]))
        raise MomeError(f"no clip of {directory} can be listed, so {out} was not written: {reasons}")
    splits = Counter(row.split for row in rows)
    counts = ", ".join(f"{split} {number}" for split, number in sorted(splits.items()))
    note(f"wrote {out}: {len(rows)} clips ({counts})")
    if skipped:
        note(f"left out {skipped}")
    report = out.with_name(f"{out.stem}.failures.csv")
    if failures:
        write_failures(report, failures)
        files = {row.path for row in rows}
        note(f"{len(failures)} of {len(files) + len(found.left_out) + len(failures)} files could not be listed:")
        for line in lines[:_LISTED]:
            note(line)
        if len(lines) > _LISTED:
            note(f"and {len(lines) - _LISTED} more: {report} has all")
        raise typer.Exit(SOME_FAILED)
    report.unlink(missing_ok=True)  # of an earlier run
