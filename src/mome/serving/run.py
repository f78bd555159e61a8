"""Serving until a signal says that it is enough."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from math import ceil

import uvicorn

from mome.errors import MomeError, reason
from mome.serving.app import OnlyHosts, build_app
from mome.serving.page import add_page
from mome.serving.service import Service, Serving

_BACKLOG = 128  # connections that wait to be accepted
_LOCAL = ("127.0.0.1", "localhost", "::1")


def run(
    serving: Serving,
    name: str,
    host: str,
    port: int,
    keys: Sequence[str],
    ready: Callable[[str], None],
    page: bool = False,
) -> None:
    """Serve; SIGTERM and SIGINT end it when the requests so far are answered.

    Args:
        serving: the model and how to serve it.
        name: what clients call the model.
        host, port: where to listen; port 0 is any that is free.
        keys: API keys, see :func:`~mome.serving.app.build_app`.
        ready: called with the server's address when requests are taken.
        page: whether there is the page for people.

    Raises:
        MomeError: the model cannot be loaded, or the address is not to be had.
    """
    logging.basicConfig(format="mome: %(message)s", level=logging.WARNING)
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with Service(serving) as service:
            app = build_app(service, name, keys)
            if page:
                add_page(app, service, name, keys)
            if host in _LOCAL and not keys:  # else any web page could ask by a name of its own for this address
                app.add_middleware(OnlyHosts, hosts=_LOCAL)
            config = uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=ceil(serving.limits.time),
                backlog=_BACKLOG,
            )
            servers.append(uvicorn.Server(config))
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listening.getsockname()[1]}")
            await servers[0].serve(sockets=[listening])

    with closing(_bound(host, port)) as listening:
        try:
            asyncio.run(serve())
        except KeyboardInterrupt:
            if not (servers and servers[0].should_exit):  # else the server has ended as it should
                raise


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address; before the model is loaded, so that a mistake shows at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)  # of a socket that is not said to be TCP, asyncio delays answers
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)  # from now on no other program can
    except OSError as error:
        raise MomeError(f"--host {host} --port {port} cannot be listened on ({reason(error)}): give others") from None
    return found
