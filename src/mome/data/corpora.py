"""Manifest rows from corpora on disk: one function for each corpus finds its clips, splits and texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from mome.data.manifests import ManifestRow
from mome.errors import MomeError, in_one_line
from mome.text.grid import decode_name
from mome.text.sentence import read_sentence

MEDIA = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp", ".wmv"),
        *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma", ".amr", ".aif", ".aiff"),
    )
)
"""Suffixes of media files, in lower case."""


@dataclass
class Corpus:
    """The clips found in a folder.

    Attributes:
        rows: the clips; their ids are their paths below the folder, with ``_`` for ``/``.
        left_out: media files that do not belong to the corpus or have no text.
        failures: files and folders that cannot be read, each with the reason in one line.
    """

    rows: list[ManifestRow] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def folder_corpus(folder: Path, split: str = "test") -> Corpus:
    """Find media files with a text file beside them: ``clip.mp4`` and ``clip.txt``.

    Args:
        folder: searched with all folders below it.
        split: the split of all clips.

    Raises:
        MomeError: there is no such folder, or there are no media files in it.
    """
    found, failures = find_media(folder)
    corpus = Corpus(failures=failures)
    for path in found:
        beside = path.with_suffix(".txt")
        try:
            text = read_sentence(beside if beside.exists() else path.with_suffix(".TXT"))
        except FileNotFoundError:
            text = ""
        except Exception as error:  # of any kind: an odd file must not stop the others
            corpus.failures.append((str(path), in_one_line(error)))
            continue
        if text:
            corpus.rows.append(ManifestRow(_clip_id(folder, path), path, split, text))
        else:
            corpus.left_out.append(path)
    return corpus


def grid_corpus(
    folder: Path, *, valid: float = 0.1, test: float = 0.1, test_talkers: Collection[str] = (), seed: int = 0
) -> Corpus:
    """Find the clips of the GRID corpus: a folder per talker, with files named by their sentences.

    Every sentence is in only one of the splits ``train``, ``valid`` and ``test``, except that test talkers may speak
    sentences of the other splits.

    Args:
        folder: searched with all folders below it.
        valid, test: shares of the sentences for these splits, together from 0 to 1.
        test_talkers: folder names of the talkers that form the test split, instead of a share of the sentences.
        seed: draws the split of each sentence.

    Raises:
        MomeError: there is no such folder, there are no media files in it, or a test talker has no clips.
    """
    found, failures = find_media(folder)
    missing = set(test_talkers) - {path.parent.name for path in found}
    if missing:
        raise MomeError(f"{folder} has no talker folder {', '.join(sorted(missing))} with clips in it")
    corpus = Corpus(failures=failures)
    for path in found:
        try:
            text = decode_name(path.stem)
        except MomeError:
            corpus.left_out.append(path)
            continue
        if path.parent.name in test_talkers:
            split = "test"
        else:
            split = sentence_split(text, valid, 0.0 if test_talkers else test, seed)
        corpus.rows.append(ManifestRow(_clip_id(folder, path), path, split, text))
    return corpus


def find_media(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Find the media files below a folder, sorted by path, without hidden files and folders.

    Returns:
        The files, and the folders that cannot be read, each with the reason.

    Raises:
        MomeError: there is no such folder, or there are no media files in it.
    """
    if not folder.is_dir():
        raise MomeError(f"{folder} is not a folder: give the folder that the clips are in")
    found = []
    errors: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in MEDIA and path.is_file()]
    failures = [(str(error.filename), f"{error.filename}: {error.strerror}") for error in errors]
    if not found:
        reason = f" ({failures[0][1]})" if failures else ""
        raise MomeError(f"{folder} has no video or audio files in it{reason}")
    return sorted(found), failures


def sentence_split(sentence: str, valid: float, test: float, seed: int) -> str:
    """The split of a sentence, which depends on the sentence and the seed only.

    ``valid`` and ``test`` are the shares of all sentences in these splits.
    """
    digest = hashlib.blake2b(f"{seed}:{sentence}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test:
        return "test"
    return "valid" if place < test + valid else "train"


def _clip_id(folder: Path, path: Path) -> str:
    return "_".join(path.relative_to(folder).with_suffix("").parts)
