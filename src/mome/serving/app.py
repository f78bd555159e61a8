"""The HTTP side: routes, keys, and errors in the shape of the OpenAI API."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

import mome
from mome.serving import replies
from mome.serving.line import Job
from mome.serving.request import Refusal, parse
from mome.serving.service import Service
from mome.serving.uploads import Body, Gone, Upload, too_large, uploaded
from mome.text.transcript import Transcript

log = logging.getLogger("mome.serving")

ALIAS = "whisper-1"
"""A name that many programs send whatever is served."""
_CLIENT_GONE = 499  # nobody sees it but the metrics
_bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, if it has any.")
_T = TypeVar("_T")


def build_app(service: Service, name: str, keys: Sequence[str] = ()) -> FastAPI:
    """The application.

    Args:
        service: what transcribes; it must have been entered.
        name: what clients call the model.
        keys: API keys, of which clients must send one; none: everybody is let in.
    """
    app = FastAPI(title="mome", version=mome.__version__, description=_DESCRIPTION, redirect_slashes=False)
    began = int(time.time())
    guarded = [Depends(_bearer)]  # for the OpenAPI page; check_key looks
    names = (name, ALIAS)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return _refusal(refusal)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _refusal(Refusal(error.status_code, f"{error.detail}: {request.method} {request.url.path}", "not_found"))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return _refusal(Refusal(400, "the request cannot be read", "invalid_request"))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refusal(Refusal(500, "the request met an error of the server, which has been noted there", "internal"))

    @app.get("/healthz", summary="The server runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="The model is there, and requests are taken")
    async def readyz() -> dict[str, str]:
        if not service.is_ready:
            raise Refusal(503, "the model is being started", "model_not_ready", retry_after=5)
        return {"status": "ready"}

    @app.get("/metrics", summary="Figures for Prometheus", dependencies=guarded)
    async def metrics(request: Request) -> Response:
        check_key(request, keys)
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    def model(id: str) -> dict[str, Any]:
        facts = service.facts
        own = {
            "rates": [str(rates) for rates in facts.order],
            "tasks": facts.rate_set.tasks,
            "description": facts.description,
        }
        return {"id": id, "object": "model", "created": began, "owned_by": "mome", "mome": own}

    @app.get("/v1/models", summary="The model", dependencies=guarded)
    async def models(request: Request) -> dict[str, Any]:
        check_key(request, keys)
        return {"object": "list", "data": [model(name)]}

    @app.get("/v1/models/{id:path}", summary="The model", dependencies=guarded)
    async def one_model(request: Request, id: str) -> dict[str, Any]:
        check_key(request, keys)
        if id not in names:
            raise Refusal(404, f"there is no such model: {name} is served", "model_not_found", "model")
        return model(id)

    @app.post(
        "/v1/audio/transcriptions",
        summary="Transcribe a recording",
        dependencies=guarded,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def transcriptions(request: Request) -> Response:
        async def reply(upload: Upload, began: float, stack: AsyncExitStack) -> Response:
            return await _transcribed(service, request, upload, name, began, stack)

        return await answered(service, request, keys, reply)

    return app


async def answered(
    service: Service,
    request: Request,
    keys: Sequence[str],
    reply: Callable[[Upload, float, AsyncExitStack], Awaitable[Response]],
) -> Response:
    """The answer to an upload, or why it is refused; it takes one of the places and is counted.

    Args:
        service, request, keys: as in :func:`build_app`.
        reply: called with the upload, the time of the monotonic clock when the request came, and a stack of what ends
            with the answer; a reply that is sent as it comes takes what is on the stack.
    """
    began = time.monotonic()
    body = Body(request.receive, service.limits.bytes)
    status = 500
    try:
        check_key(request, keys)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > body.limit:
            raise too_large(body.limit)
        async with AsyncExitStack() as stack:
            stack.enter_context(service.place())
            try:
                async with asyncio.timeout(service.limits.time):
                    content_type = request.headers.get("content-type", "")
                    upload = await stack.enter_async_context(uploaded(body, content_type, service.folder))
            except TimeoutError:
                message = f"the upload stalls, or took longer than {service.limits.time:g} s"
                raise Refusal(408, message, "upload_too_slow", "file") from None
            response = await reply(upload, began, stack)
        status = response.status_code
        return response
    except Refusal as refusal:
        status = refusal.status
        try:
            await body.discard()
        except Gone:
            status = _CLIENT_GONE
        return _refusal(refusal)
    except Gone:
        status = _CLIENT_GONE
        return Response(status_code=status)
    finally:
        service.metrics.requests.labels(str(status)).inc()


async def _transcribed(
    service: Service, request: Request, upload: Upload, name: str, began: float, stack: AsyncExitStack
) -> Response:
    """The reply to a request for a transcript."""
    facts, names = service.facts, (name, ALIAS)
    options = parse(upload.fields, names, facts.rate_set, service.serving.rates, facts.order)
    received = time.monotonic()
    job = stack.enter_context(service.recording(upload.path, options, began))
    unused = {"mome-unused": ", ".join(options.unused)} if options.unused else {}
    if options.stream:
        transcripts = aiter(job)
        first = await unless_gone(request, anext(transcripts, None))  # what cannot be read has a status of its own
        headers = unused if job.rates is None else {"mome-rates": str(job.rates), **unused}
        return Events(_events(service, job, first, transcripts, (began, received), name), stack.pop_all(), headers)
    await unless_gone(request, job.wait())
    transcript = job.transcript()
    service.metrics.seconds.observe(time.monotonic() - began)
    headers = {"mome-rates": str(transcript.rates), **unused}
    if options.format in replies.MEDIA_TYPES:
        kind = replies.MEDIA_TYPES[options.format]
        return PlainTextResponse(replies.text(transcript, options), media_type=kind, headers=headers)
    reply = replies.document(job, transcript, milliseconds(job, transcript, began, received), name)
    return JSONResponse(reply, headers=headers)


async def _events(
    service: Service,
    job: Job,
    first: Transcript | None,
    rest: AsyncIterator[Transcript],
    times: tuple[float, float],
    name: str,
) -> AsyncIterator[bytes]:
    """The events of a reply that is sent as the text comes."""
    said = False
    try:
        transcript: Transcript | None = first
        while transcript is not None:
            for segment in transcript.segments:
                delta = f" {segment.text}" if said else segment.text
                own = {"start": segment.start, "end": segment.end, "rates": str(transcript.rates)}
                yield replies.event("transcript.text.delta", delta=delta, mome=own)
                said = True
            transcript = await anext(rest, None)
        whole = job.transcript()
        service.metrics.seconds.observe(time.monotonic() - times[0])
        reply = replies.document(job, whole, milliseconds(job, whole, *times), name)
        del reply["usage"]  # in events it counts tokens, also those written, which nobody bills here
        yield replies.event("transcript.text.done", **reply)
    except Refusal as refusal:
        yield replies.event("error", **refusal.to_dict())


class Events(StreamingResponse):
    """A reply that is sent as the text comes; leaves ``stack`` at its end, also if the client goes before its start."""

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack, headers: Mapping[str, str] | None = None):
        named = {"cache-control": "no-store", **(headers or {})}
        super().__init__(events, media_type="text/event-stream", headers=named)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._stack:
            await super().__call__(scope, receive, send)


class OnlyHosts:
    """Refuses requests that name another host than one of ``hosts`` as the server's."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        app = self._app
        if scope["type"] == "http" and Request(scope).url.hostname not in self._hosts:
            message = (
                f"this server answers as {self._hosts[0]} alone: start it with --api-key to let it have other names"
            )
            app = _refusal(Refusal(421, message, "wrong_host"))
        await app(scope, receive, send)


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What ``work`` gives; raises :class:`Gone`, and ends the work, if the client goes away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work), asyncio.create_task(gone())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] not in done:
            raise Gone
        result: _T = tasks[0].result()
        return result
    finally:
        for task in tasks:
            task.cancel()


def milliseconds(job: Job, transcript: Transcript, began: float, received: float) -> dict[str, float]:
    """What took how long; ``wait`` is until the model began, reading included."""
    now = time.monotonic()
    spans = {
        "upload": received - began,
        "read": transcript.seconds.media,
        "wait": (job.started or now) - job.created,
        "encode": transcript.seconds.encode,
        "decode": transcript.seconds.decode,
        "total": now - began,
    }
    return {name: round(1000 * seconds, 1) for name, seconds in spans.items()}


def check_key(request: Request, keys: Sequence[str]) -> None:
    """Raise :class:`Refusal` if the request lacks one of the keys."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = ""
    if keys and not sum(hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys):  # all are compared
        message = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
        raise Refusal(401, message, "invalid_api_key")


def _refusal(refusal: Refusal) -> Response:
    headers = {}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(refusal.to_dict(), refusal.status, headers)


_DESCRIPTION = """Speech recognition that listens, reads lips, or does both. `POST /v1/audio/transcriptions` takes what
the OpenAI API takes, and video; `rates`, `task` and `beams` are fields beside it."""
_TEXT, _LIST = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "A recording: sound, video or both."},
        "model": {**_TEXT, "description": f"The model's name, see /v1/models; {ALIAS} will do."},
        "response_format": {"enum": ["json", "text", "srt", "verbose_json", "vtt"], "default": "json"},
        "timestamp_granularities[]": {"type": "array", "items": {"enum": ["word", "segment"]}},
        "stream": {"type": "boolean", "default": False, "description": "Send text as server-sent events."},
        "rates": {
            **_TEXT,
            "description": "Audio and video rate: 4,2 listens and reads lips, 4,- listens, -,2 reads lips; auto: the "
            "finest that the queue allows.",
        },
        "task": {"enum": ["avsr", "asr", "vsr"], "description": "Listen and read lips, listen, or read lips."},
        "beams": {"type": "integer", "minimum": 1, "description": "Width of the beam search."},
        "language": {**_TEXT, "description": "Accepted; this model makes no use of it."},
        "prompt": {**_TEXT, "description": "Accepted; this model makes no use of it."},
        "temperature": {"type": "number", "description": "Accepted; this model makes no use of it."},
        "include[]": {**_LIST, "description": "Accepted; this model makes no use of it."},
    },
}
