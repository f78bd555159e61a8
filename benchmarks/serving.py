"""Measure the server beside a naive one: clips a second at 1, 8 and 64 requests at a time.

    python -m benchmarks.serving [SPEECH/manifest.csv] [--faces FILM ...] [--device cpu]

The naive server takes the same requests, has the same model and does one request after the other, from the file to the
text, as a few lines around ``Transcriber.transcribe`` do. Both run at the same time, in processes of their own, and are
asked in turn, so that a ratio is that of one turn whatever else the machine does. mome-tiny reads the demonstration
clip, which has its mouth cropped, with and without its sound, and whole films, in which faces must be found; mome-base
hears the test clips of a folder of speech.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx2
import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from scripts.serving.server import CLIP, serving, until

import mome
from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json

CONCURRENCY = (1, 8, 64)


@dataclass(frozen=True)
class Work:
    """What is asked: a model, rates and recordings; requests for each of the concurrencies, and how often."""

    name: str
    model: str
    rates: str
    clips: tuple[bytes, ...]
    requests: tuple[int, ...] = (8, 32, 96)
    turns: int = 3


def naive(model: str, device: str, port: int) -> None:
    """The other server."""
    app, lock = FastAPI(), asyncio.Lock()
    torch.set_num_threads(max((os.cpu_count() or 1) // 2, 1))  # as our server's model has
    transcriber = mome.load(model, device=device)

    @app.post("/v1/audio/transcriptions")
    async def transcribe(file: UploadFile, rates: str = Form()) -> dict[str, str]:
        async with lock:
            found = await asyncio.to_thread(transcriber.transcribe, await file.read(), rates)
        return {"text": found.text}

    uvicorn.run(app, port=port, log_level="warning")


@contextmanager
def naive_server(model: str, device: str) -> Iterator[str]:
    """Start it in a process; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving", "--naive", model, str(port), "--device", device]
    process = subprocess.Popen(command)
    try:
        until(lambda: process.poll() is not None or not socket.socket().connect_ex(("127.0.0.1", port)), 180)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def ask(url: str, work: Work, concurrency: int, requests: int) -> tuple[float, list[str]]:
    """Clips a second, and the texts."""
    numbers = iter(range(requests))
    texts = [""] * requests
    messages = [message(clip, work.rates) for clip in work.clips]

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        for number in numbers:
            writer.write(messages[number % len(messages)])
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            body = await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            texts[number] = json.loads(body)["text"]
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(concurrency)))
    return requests / (time.monotonic() - began), texts


def message(clip: bytes, rates: str) -> bytes:
    """A request as bytes: a client that made it anew each time would need as much time as a server."""
    form = httpx2.Request(
        "POST", "http://x", data={"model": "whisper-1", "rates": rates}, files={"file": ("clip", clip)}
    )
    body = form.read()
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nContent-Type: "
    return f"{head}{form.headers['content-type']}\r\n\r\n".encode() + body


def measure(work: Work, device: str, batch: int, readers: int) -> list[dict[str, Any]]:
    """A row for each concurrency."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        options = ["--model", work.model, "--queue", "256", "--max-wait", "300", "--device", device]
        options += ["--batch", str(batch), "--readers", str(readers)]
        ours = stack.enter_context(serving(Path(folder) / "log", *options)).url
        theirs = stack.enter_context(naive_server(work.model, device))
        for url in (theirs, ours):  # warming up
            asyncio.run(ask(url, work, 2, 4))
        for concurrency, requests in zip(CONCURRENCY, work.requests, strict=True):
            speeds: list[tuple[float, float]] = []
            same = 0
            for _ in range(work.turns):
                slow, first = asyncio.run(ask(theirs, work, concurrency, requests))
                fast, second = asyncio.run(ask(ours, work, concurrency, requests))
                speeds.append((slow, fast))
                same += sum(one == other for one, other in zip(first, second, strict=True))
            ratios = [fast / slow for slow, fast in speeds]
            rows.append(
                {
                    "work": work.name,
                    "model": work.model,
                    "rates": work.rates,
                    "concurrency": concurrency,
                    "requests": requests,
                    "turns": work.turns,
                    "naive_clips_per_second": median(slow for slow, _ in speeds),
                    "clips_per_second": median(fast for _, fast in speeds),
                    "ratio": median(ratios),
                    "ratio_range": [min(ratios), max(ratios)],
                    "same_text": same / (work.turns * requests),
                }
            )
            print({name: rows[-1][name] for name in ("work", "concurrency", "clips_per_second", "ratio")}, flush=True)
    return rows


def works(manifest: Path | None, films: list[Path]) -> Iterator[Work]:
    """What is asked for."""
    yield Work("lips and sound", "mome-tiny", "4,2", (CLIP.read_bytes(),))
    yield Work("sound", "mome-tiny", "4,-", (CLIP.read_bytes(),))
    if films:
        yield Work("films", "mome-tiny", "4,2", tuple(film.read_bytes() for film in films), (4, 16, 64))
    if manifest is not None:
        with manifest.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test" and float(row["seconds"]) < 15]
        clips = tuple((manifest.parent / row["path"]).read_bytes() for row in rows[::7][:32])
        yield Work("speech", "mome-base", "4,-", clips, (4, 16, 64), 1)


def main() -> None:
    """Measure and write the results, after each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--faces", nargs="*", type=Path, default=[], help="films of a speaking face")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--readers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", help="names of the kinds of work")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/serving.json"))
    parser.add_argument("--naive", nargs=2, metavar=("MODEL", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.naive:
        naive(given.naive[0], given.device, int(given.naive[1]))
        return
    own = [f"{name}={getattr(given, name)}" for name in ("device", "batch", "readers")]
    command = shlex.join(["python", "-m", "benchmarks.serving", "MANIFEST", "--faces", "FILMS"])
    document = run_document(command=command, model=None, data="see work", seed=0)
    document |= {"options": own, "machine": machine(torch.device(given.device)), "cores": os.cpu_count()}
    rows: list[dict[str, Any]] = []
    for work in works(given.manifest, given.faces):
        if not given.only or work.name in given.only:
            rows += measure(work, given.device, given.batch, given.readers)
            write_json(given.out, {**document, "rows": rows})


if __name__ == "__main__":
    main()
