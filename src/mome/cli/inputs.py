"""The recordings that a command line names: files, folders, patterns, addresses and standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from mome.cli.options import check_path
from mome.errors import MomeError

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One recording.

    Attributes:
        source: a file, an address, or :data:`STDIN`.
        place: where its output lies below the folder for output, without suffix.
    """

    source: Path | str
    place: PurePath

    @property
    def name(self) -> str:
        """What messages and transcripts call it."""
        return "<stdin>" if self.source == STDIN else str(self.source)

    def opened(self) -> Path | str | IO[bytes]:
        """What to read.

        Raises:
            MomeError: the path is not possible, or standard input is a terminal or closed.
        """
        if isinstance(self.source, Path):
            check_path(self.source)
        elif self.source == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise MomeError("<stdin> is a terminal, or closed: mome transcribe - < FILE reads a file from it")
            return sys.stdin.buffer
        return self.source


def parse_input(text: str) -> Path | str:
    """Read an argument: an address, :data:`STDIN` or a path."""
    return text if text == STDIN or "://" in text else Path(text)


def find_inputs(given: Sequence[Path | str]) -> tuple[list[Input], list[tuple[str, MomeError]]]:
    """Find the recordings that are named.

    Args:
        given: files; folders, for the media files below them; patterns that the shell left as they are, with ``*``,
            ``?``, ``[…]`` and ``**`` for any folders; addresses; :data:`STDIN`.

    Returns:
        The recordings, sorted below a folder and for a pattern, and what names none, with the reason.
    """
    found: list[Input] = []
    failures: list[tuple[str, MomeError]] = []
    for one in given:
        try:
            if isinstance(one, str):
                found.append(Input(one, PurePath("stdin" if one == STDIN else _place(one))))
            elif os.path.lexists(one) or not glob.has_magic(str(one)):
                found += _below(one, one.parent, failures)
            else:
                matches = sorted(map(Path, glob.glob(str(one), recursive=True)))
                if not matches:
                    raise MomeError(f"{one} matches no file: check the pattern")
                fixed = PurePath(*_fixed(one.parent))
                found += [each for path in matches for each in _below(path, fixed, failures)]
        except MomeError as error:
            failures.append((str(one), error))
    return found, failures


def _below(path: Path, base: PurePath, failures: list[tuple[str, MomeError]]) -> list[Input]:
    """The media files of a folder, or a file, with their places below ``base`` or the folder."""
    from mome.data.corpora import find_media

    if not os.path.isdir(path):  # unlike Path.is_dir, it is false for paths that are not possible
        return [Input(path, path.relative_to(base).with_suffix(""))]
    files, closed = find_media(path)
    failures += [(name, MomeError(reason)) for name, reason in closed]
    return [Input(file, file.relative_to(path).with_suffix("")) for file in files]


def _fixed(path: PurePath) -> Iterator[str]:
    """The first parts of a pattern, without wildcards."""
    for part in path.parts:
        if glob.has_magic(part):
            return
        yield part


def _place(address: str) -> str:
    """A file name without suffix from the last part of an address."""
    parts = urlsplit(address)
    name = PurePosixPath(unquote(parts.path)).stem or parts.netloc
    return re.sub(r"[^\w.-]", "_", name).strip(".") or "recording"
