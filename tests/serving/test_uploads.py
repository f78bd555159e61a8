from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from mome.serving import uploads
from mome.serving.request import Refusal
from mome.serving.uploads import LONGEST_FIELD, LONGEST_HEADER, MOST_FIELDS, Body, Gone, uploaded

KIND = "multipart/form-data; boundary=xyz"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return b"--xyz\r\n" + f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def upload(
    folder: Path, chunks: Iterable[bytes], kind: str = KIND, limit: int = 1 << 20, end: bool = True
) -> tuple[bytes, dict[str, list[str]], str]:
    """The file's bytes, the fields and the name on disk."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end:
        messages[-1]["more_body"] = False
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict:
        return messages.pop(0)

    async def run() -> tuple[bytes, dict[str, list[str]], str]:
        async with uploaded(Body(receive, limit), kind, folder) as found:
            return found.path.read_bytes(), found.fields, found.path.name

    try:
        return asyncio.run(run())
    finally:
        assert list(folder.iterdir()) == []  # nothing stays, whatever happens


WHOLE = form(part("model", b"m"), part("file", bytes(range(256)), "../../x.mp4"), part("a[]", b"1"), part("a[]", b"2"))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_form_in_pieces_of_any_size(tmp_path, size):
    chunks = [WHOLE[i : i + size] for i in range(0, len(WHOLE), size)]
    content, fields, name = upload(tmp_path, chunks)
    assert content == bytes(range(256))
    assert fields == {"model": ["m"], "a[]": ["1", "2"]}
    assert "x.mp4" not in name


def test_too_large(tmp_path):
    with pytest.raises(Refusal) as caught:
        upload(tmp_path, [form(part("file", bytes(1000), "a"))], limit=900)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([b"{}"], "application/json"),
        ([b"{}"], ""),
        ([b""], KIND),
        ([WHOLE], "multipart/form-data"),
        ([WHOLE], "multipart/form-data; boundary=" + "x" * 5000),
        ([WHOLE], "multipart/form-data; boundary=other"),
        ([WHOLE[:-10]], KIND),
        ([form(part("model", b"m"))], KIND),
        ([form(part("file", b"1", "a"), part("file", b"2", "b"))], KIND),
        ([form(b"--xyz\r\nContent-Type: a\r\n\r\nb\r\n")], KIND),
        ([b"--xyz\r\n" + b"A: " + b"b" * (LONGEST_HEADER + 1)], KIND),
        ([b"--xyz\r\n" + b"A" * (LONGEST_HEADER + 1)], KIND),
        ([form(part("model", b"m" * (LONGEST_FIELD + 1)), part("file", b"", "a"))], KIND),
        ([form(*(part(f"f{k}", b"m") for k in range(MOST_FIELDS + 1)))], KIND),
        ([b"\x00" * 1000], KIND),
    ],
)
def test_what_is_no_form_with_a_file(tmp_path, chunks, kind):
    with pytest.raises(Refusal) as caught:
        upload(tmp_path, chunks, kind)
    assert caught.value.status == 400


def test_the_client_goes_away(tmp_path):
    with pytest.raises(Gone):
        upload(tmp_path, [WHOLE[:300]], end=False)


def test_the_rest_is_read_before_an_answer():
    sent = [{"type": "http.request", "body": bytes(100), "more_body": k < 9} for k in range(10)]

    async def receive() -> dict:
        return sent.pop(0)

    asyncio.run(Body(receive, 1).discard())
    assert sent == []


def test_a_full_disk_keeps_no_part_of_a_file(tmp_path, monkeypatch):
    def full(descriptor: int, mode: str):
        os.close(descriptor)
        return Path("/dev/full").open(mode)

    monkeypatch.setattr(uploads.os, "fdopen", full)
    for content in (b"short", bytes(1 << 20)):  # one that is written at the end, and one that is not
        with pytest.raises(Refusal) as caught:
            upload(tmp_path, [form(part("file", content, "a"))], limit=1 << 21)
        assert (caught.value.status, caught.value.code) == (503, "no_room")


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_an_upload_that_stalls_or_drips(tmp_path, monkeypatch, pause):
    monkeypatch.setattr(uploads, "_STALL", 0.1)

    async def receive() -> dict:
        await asyncio.sleep(pause or 10)
        return {"type": "http.request", "body": b"-", "more_body": True}

    async def run() -> None:
        async with uploaded(Body(receive, 1 << 20), KIND, tmp_path):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(run(), 5))
    assert list(tmp_path.iterdir()) == []
