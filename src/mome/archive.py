"""Media files inside tar archives: ``shard.tar/clip.mp4`` is read where it lies, without unpacking."""

from __future__ import annotations

import tarfile
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from mome.errors import MomeError, reason


class Member(NamedTuple):
    """A file in an archive, whose bytes from ``start`` to ``end`` it is."""

    archive: Path
    start: int
    end: int


def find_member(path: Path) -> Member | None:
    """Where the file ``archive.tar/name`` lies; ``None`` if the path is not of that kind or the archive lacks it.

    Raises:
        MomeError: the archive is damaged.
    """
    archive = path.parent
    if archive.suffix.lower() != ".tar":
        return None
    try:
        status = archive.stat()
    except (OSError, ValueError):
        return None
    if not S_ISREG(status.st_mode):
        return None
    span = _spans(archive, status.st_size, status.st_mtime_ns).get(path.name)
    return None if span is None else Member(archive, *span)


@lru_cache(maxsize=256)
def _spans(archive: Path, size: int, modified: int) -> dict[str, tuple[int, int]]:
    """The plain files at the top of an archive; size and time tell its versions apart."""
    try:
        with tarfile.open(archive, "r:") as members:
            return {
                member.name: (member.offset_data, member.offset_data + member.size)
                for member in members
                if member.isreg() and not member.issparse()
            }
    except (OSError, tarfile.TarError) as error:
        raise MomeError(f"{archive} is not a complete tar file ({reason(error)}): make or copy it again") from error
