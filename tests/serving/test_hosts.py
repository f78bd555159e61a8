from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import PlainTextResponse

from mome.serving.app import OnlyHosts


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
    ],
)
def test_a_name_that_a_web_page_made_up_is_not_the_servers(host, status):
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def inner(scope: dict, receive: object, send: Callable[[dict], Awaitable[None]]) -> None:
        await PlainTextResponse("")(scope, receive, send)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())], "query_string": b""}
    asyncio.run(OnlyHosts(inner, ("127.0.0.1", "localhost", "::1"))(scope, None, send))
    assert sent[0]["status"] == status
