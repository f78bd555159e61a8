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
    if archive.suffix.lower() != ".tar" or "\0" in path.name:
        return None
    try:
        status = archive.stat()
    except (OSError, ValueError):
        return None
    if not S_ISREG(status.st_mode):
        return None
    index, name = _index(archive, status.st_size, status.st_mtime_ns), _entry(path.name)
    place = index.rfind(name)  # the last of several of one name counts
    if place < 0:
        return None
    start, end = index[place + len(name) : index.index(_END, place + len(name))].split()
    return Member(archive, int(start), int(end))


_END = b"\0"  # which no name holds


def _entry(name: str) -> bytes:
    # No name of a path holds the slash, so that nothing else in an index looks like this.
    return _END + b"/" + name.encode(errors="surrogatepass") + _END


@lru_cache(maxsize=4096)
def _index(archive: Path, size: int, modified: int) -> bytes:
    """Names and places of the plain files of an archive, as text: a sixth of the memory of a dictionary.

    Size and time tell an archive's versions apart.
    """
    try:
        with tarfile.open(archive, "r:") as members:
            entries = (
                _entry(member.name) + b"%d %d" % (member.offset_data, member.offset_data + member.size)
                for member in members
                if member.isreg() and not member.issparse()
            )
            return b"".join(entries) + _END
    except (OSError, tarfile.TarError) as error:
        raise MomeError(f"{archive} is not a complete tar file ({reason(error)}): make or copy it again") from error
