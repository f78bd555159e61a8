"""The page for people: its files, and a recording at all rates side by side."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response

import mome
from mome.clip import SAMPLE_RATE
from mome.media.parts import Part
from mome.serving import replies
from mome.serving.app import Events, answered, milliseconds, unless_gone
from mome.serving.line import Job
from mome.serving.request import Options, Refusal, number, parse
from mome.serving.service import Service
from mome.serving.uploads import Upload
from mome.text.subtitles import cues
from mome.text.transcript import Transcript

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; media-src blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""What the browser lets the page do: run its own script, and ask its own server."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(self)",
    "cache-control": "no-cache",
}
_STATIC = Path(__file__).with_name("static")
_FILES = {
    "/": _STATIC / "index.html",
    "/page/page.css": _STATIC / "page.css",
    "/page/page.js": _STATIC / "page.js",
    "/page/clip.mp4": Path(mome.__file__).parent / "demo" / "clip.mp4",
}
_LARGEST_SNR = 50.0
_PEAKS, _COLUMNS = 100, 25  # peaks of the sound a second, and mouths side by side in a picture


def add_page(app: FastAPI, service: Service, name: str, keys: Sequence[str]) -> None:
    """Add the page to an application; the arguments are those of :func:`~mome.serving.app.build_app`."""
    for path, file in _FILES.items():
        app.add_api_route(path, _sender(file), methods=["GET"], include_in_schema=False)

    @app.post("/page/compare", include_in_schema=False)
    async def compare(request: Request) -> Response:
        async def reply(upload: Upload, began: float, stack: AsyncExitStack) -> Response:
            options = _options(service, name, upload.fields)
            received = time.monotonic()
            first = stack.enter_context(service.recording(upload.path, options[0], began))
            read: list[Part] = []
            first.listeners.append(lambda more: read.extend(more.parts))
            rest = [stack.enter_context(service.recording(upload.path, each, began, first)) for each in options[1:]]
            transcripts = aiter(first)
            await unless_gone(request, anext(transcripts, None))  # what cannot be read has a status of its own
            events = _events([first, *rest], transcripts, read, (began, received), name)
            return Events(events, stack.pop_all())

        return await answered(service, request, keys, reply)


def _sender(file: Path) -> Any:
    async def send() -> Response:
        return FileResponse(file, headers=_HEADERS)

    return send


def _options(service: Service, name: str, fields: Mapping[str, Sequence[str]]) -> list[Options]:
    """What is asked for at each rate of the model's main task, finest first, and at ``rates`` if they are others.

    All is read at the first ones, so they are those that need most. ``noise`` is the ratio of speech to noise in dB;
    other fields are those of the API.
    """
    facts, of_api = service.facts, {key: value for key, value in fields.items() if key != "noise"}
    given = {"model": [name], "response_format": ["verbose_json"], "timestamp_granularities[]": ["word"]}
    options = parse(of_api | given, [name], facts.rate_set, "", facts.order)
    noise = number("noise", fields["noise"][0], _LARGEST_SNR) if "noise" in fields else None
    main = [rates for rates in facts.order if rates.task == facts.order[0].task]
    chosen = dict.fromkeys([*main, *options.rates])
    return [replace(options, rates=(rates,), noise=noise, alone=True) for rates in chosen]


async def _events(
    jobs: Sequence[Job], first: AsyncIterator[Transcript], read: list[Part], times: tuple[float, float], name: str
) -> AsyncIterator[bytes]:
    """What was read, as it is transcribed, then a row for each job: what it says, or why it cannot be had."""
    while True:
        while read:
            yield await asyncio.to_thread(_seen, read.pop(0))
        try:
            if await anext(first, None) is None:
                break
        except Refusal as refusal:
            yield replies.event("error", **refusal.to_dict())
            return
    for job in jobs:
        asked = str(job.options.rates[0])
        try:
            if job is not jobs[0]:
                await job.wait()
        except Refusal as refusal:
            yield replies.event("row", asked=asked, **refusal.to_dict())
            continue
        transcript = job.transcript()
        row = replies.document(job, transcript, milliseconds(job, transcript, *times), name)
        subtitles = [asdict(cue) for cue in cues(transcript.segments)]
        yield replies.event("row", asked=asked, cues=subtitles, **row)
    yield replies.event("done")


def _seen(part: Part) -> bytes:
    """A part as the model gets it: the sound's peaks from 0 to 255, and all mouths as one picture, row by row."""
    shown: dict[str, Any] = {"start": part.start, "seconds": part.clip.seconds}
    if part.clip.audio is not None:
        shown["peaks"], shown["per_second"] = _peaks(part.clip.audio), _PEAKS
    if part.clip.mouth is not None and len(part.clip.mouth):
        shown |= {"mouths": _picture(part.clip.mouth), "columns": _COLUMNS, "count": len(part.clip.mouth)}
    return replies.event("part", **shown)


def _peaks(audio: np.ndarray) -> list[int]:
    window = SAMPLE_RATE // _PEAKS
    padded = np.pad(np.abs(audio), (0, -len(audio) % window)).reshape(-1, window)
    peaks: list[int] = np.minimum(255 * padded.max(1), 255).astype(int).tolist()
    return peaks


def _picture(mouths: np.ndarray) -> str:
    """(frames, 96, 96) uint8 as the address of a JPEG picture that contains them."""
    padded = np.pad(mouths, ((0, -len(mouths) % _COLUMNS), (0, 0), (0, 0)))
    rows = padded.reshape(-1, _COLUMNS, *mouths.shape[1:]).swapaxes(1, 2)
    _, encoded = cv2.imencode(".jpg", rows.reshape(rows.shape[0] * rows.shape[1], -1), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
