"""Files that are written completely or not at all, and disk errors as messages of one line."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mome.errors import MomeError, reason, shortened

_numbers = itertools.count()
# Machines that share a folder may have processes of the same number.
_machine = secrets.token_hex(4)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for the block to write; then move it to ``path``.

    The file gets the permissions of a new file; a link at ``path`` is replaced, not followed. If the block fails,
    ``path`` is unchanged.

    Raises:
        MomeError: the folder is missing or the file cannot be written.
    """
    if not path.parent.is_dir():
        raise MomeError(f"folder {path.parent} does not exist: make it, or choose another place for {path.name}")
    temporary = path.with_name(f".mome.{_machine}.{os.getpid()}.{next(_numbers)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)  # safetensors makes files readable by their owner alone
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise MomeError(f"{path} cannot be written: {shortened(reason(error), 120)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all; what UTF-8 cannot encode is written as an escape.

    Raises:
        MomeError: as :func:`atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def set_default_permissions(*files: Path) -> None:
    """Give files the permissions of new files; safetensors makes them readable by their owner alone."""
    for file in files:
        sample = file.with_name(f".mome.{os.getpid()}.{next(_numbers)}.mode")  # reading the umask would change it
        sample.touch()
        mode = sample.stat().st_mode
        sample.unlink()
        file.chmod(mode & 0o777)


@contextmanager
def disk_errors(what: Path | str) -> Iterator[None]:
    """Turn disk errors of the block into a :class:`MomeError`.

    Args:
        what: the file or folder that the message names if the error does not name one.

    Raises:
        MomeError: a file cannot be read or written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        name = getattr(error, "filename", None) or what
        raise MomeError(f"{name} cannot be read or written: {shortened(reason(error), 120)}") from error
