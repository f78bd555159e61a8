"""Files written whole or not at all, and one line where the disk does not take or give them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import ProcessorMixin

from mome.errors import MomeError, shortened


def write_text(file: Path, text: str) -> None:
    """Write a file that is whole or not there; a link in its place is replaced, not followed."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Save a processor to a folder; :class:`MomeError` where it cannot be written."""
    try:
        processor.save_pretrained(folder)
    except Exception as error:  # of whatever kind: the library in which tokenizers are written raises that itself
        raise MomeError(f"the processor in {folder} cannot be written: {shortened(error, 120)}") from error


@contextmanager
def using(file: Path | str) -> Iterator[None]:
    """Turn what the disk refuses into one line that names the file, or ``file`` where the system does not say which.

    Raises:
        MomeError: it cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        reason = shortened(error.strerror or error, 120)
        raise MomeError(f"{error.filename or file} cannot be read or written: {reason}") from error
    except SafetensorError as error:
        raise MomeError(f"{file} cannot be read or written: {shortened(error, 120)}") from error
