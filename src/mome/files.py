"""Files that are written completely or not at all, and one line where the disk refuses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mome.errors import MomeError, reason, shortened

_numbers = itertools.count()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block has written it.

    The file gets the permissions that new files have; a link in its place is replaced, not followed. If the block
    fails, what was there before stays.

    Raises:
        MomeError: the folder is missing or the file cannot be written.
    """
    if not path.parent.is_dir():
        raise MomeError(f"folder {path.parent} does not exist: make it, or choose another place for {path.name}")
    temporary = path.with_name(f".mome.{os.getpid()}.{next(_numbers)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)  # safetensors makes files for their owner alone
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise MomeError(f"{path} cannot be written: {shortened(reason(error), 120)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all; characters that UTF-8 lacks are spelled out.

    Raises:
        MomeError: as :func:`atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def open_as_usual(*files: Path) -> None:
    """Give files the permissions that new files have; safetensors makes them for their owner alone."""
    for file in files:
        sample = file.with_name(f".mome.{os.getpid()}.{next(_numbers)}.mode")  # reading the umask would change it
        sample.touch()
        mode = sample.stat().st_mode
        sample.unlink()
        file.chmod(mode & 0o777)


@contextmanager
def disk_errors(what: Path | str) -> Iterator[None]:
    """Turn what the disk refuses into one line that names the file, or ``what`` where the system does not say which.

    Raises:
        MomeError: it cannot be read or written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        name = getattr(error, "filename", None) or what
        raise MomeError(f"{name} cannot be read or written: {shortened(reason(error), 120)}") from error
