"""The body of a request: a form with one file, which is written to disk as it comes and never held in memory."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from mome.serving.request import Refusal, invalid

log = logging.getLogger("mome.serving")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MOST_FIELDS, LONGEST_FIELD, LONGEST_HEADER = 32, 64 << 10, 8 << 10
"""Fields beside the file, bytes of one of them, and bytes of the headers of a part."""
_DISCARDED, _PATIENCE = 64 << 20, 10.0  # bytes and seconds
_STALL, _SLOWEST = 15.0, 1024  # seconds without a byte, and bytes a second after these


class Gone(Exception):
    """The client went away."""


class Body:
    """The bytes of a request as they come, up to a limit.

    Args:
        receive: the request's channel.
        limit: bytes.
    """

    def __init__(self, receive: Receive, limit: int):
        self._receive, self.limit = receive, limit
        self.size, self.ended = 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes in pieces; raises :class:`Refusal` beyond the limit, :class:`Gone`, or TimeoutError if too slow."""
        began = time.monotonic()
        while not self.ended:
            async with asyncio.timeout(_STALL):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            self.ended = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self.size += len(chunk)
            if self.size > self.limit:
                raise too_large(self.limit)
            if not self.ended and self.size < _SLOWEST * (time.monotonic() - began - _STALL):
                raise TimeoutError
            yield chunk

    async def discard(self) -> None:
        """Read on for a while: a client that is still sending would not see an answer before that."""
        self.limit = self.size + _DISCARDED
        try:
            async with asyncio.timeout(_PATIENCE):
                async for _ in self:
                    pass
        except (Refusal, TimeoutError):
            pass


def too_large(limit: int) -> Refusal:
    """A body is larger than is taken."""
    return Refusal(413, f"the upload has more than the {limit} bytes that are taken", "file_too_large", "file")


@dataclass
class Upload:
    """A form.

    Attributes:
        path: the file; it is deleted when the upload is closed.
        fields: the other fields, by name.
    """

    path: Path
    fields: dict[str, list[str]] = field(default_factory=dict)


@asynccontextmanager
async def uploaded(body: Body, content_type: str, folder: Path) -> AsyncIterator[Upload]:
    """The form of a request, for the time of the block.

    Args:
        body: its bytes.
        content_type: the header of this name.
        folder: where to keep the file, under a name that the client does not know.

    Raises:
        Refusal: it is no form with one file, or too large.
        Gone: the client went away.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise invalid("file", "the body is no form with a file: send multipart/form-data, as curl -F does")
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        form = _Form(boundary)
        with _kept(), os.fdopen(descriptor, "wb") as file:
            async for chunk in body:
                blocks = form.feed(chunk)
                if blocks:
                    await asyncio.to_thread(file.writelines, blocks)
            form.finish()
        yield Upload(Path(name), form.fields)
    finally:
        os.unlink(name)


@contextmanager
def _kept() -> Iterator[None]:
    """Turn an error of the disk into a refusal; a part of a file must not pass for the whole."""
    try:
        yield
    except TimeoutError:  # an OSError too
        raise
    except OSError:
        log.error("an upload could not be kept: is the disk of the temporary folder full?")
        message = "the server has no room for the upload at present: try again later"
        raise Refusal(503, message, "no_room", retry_after=30) from None


class _Form:
    """Reads a form piece by piece."""

    def __init__(self, boundary: bytes):
        self.fields: dict[str, list[str]] = {}
        self.has_file = self._ended = False
        self._blocks: list[bytes] = []
        self._header, self._headers, self._disposition = b"", 0, b""
        self._value = bytearray()
        self._name: str | None = None
        self._is_file = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finished,
                },
            )
        except FormParserError:
            raise _broken() from None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; returns those of the file."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _broken() from None
        blocks, self._blocks = self._blocks, []
        return blocks

    def finish(self) -> None:
        """Raise :class:`Refusal` if the form is not complete, or has no file."""
        if not self._ended:
            raise _broken()
        if not self.has_file:
            raise invalid("file", "the field file is missing: send a recording, as curl -F file=@talk.mp4 does")

    def _begin(self) -> None:
        self._header, self._headers, self._disposition = b"", 0, b""
        self._value.clear()
        self._name, self._is_file, self._line = None, False, b""

    def _count(self, length: int) -> None:
        self._headers += length
        if self._headers > LONGEST_HEADER:
            raise invalid("file", "a part of the form has too long headers")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._line += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._line
        self._header = self._line = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _broken()
        self._name = options[b"name"].decode(errors="replace")
        self._is_file = self._name == "file"
        if self._is_file and self.has_file:
            raise invalid("file", "the form has several files: send one")
        self.has_file |= self._is_file
        if not self._is_file and sum(map(len, self.fields.values())) >= MOST_FIELDS:
            raise invalid(self._name[:80], f"the form has more than {MOST_FIELDS} fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._blocks.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > LONGEST_FIELD:
            raise invalid((self._name or "")[:80], f"a field of the form has more than {LONGEST_FIELD} bytes")

    def _end(self) -> None:
        if not self._is_file and self._name is not None:
            self.fields.setdefault(self._name, []).append(self._value.decode(errors="replace"))

    def _finished(self) -> None:
        self._ended = True


def _broken() -> Refusal:
    return invalid("file", "the form is broken off or damaged: send multipart/form-data, as curl -F does")
