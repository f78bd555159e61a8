"""Processes that do the work, so that no recording and no model can end the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from typing import Any

from mome.errors import MomeError
from mome.serving.request import Refusal

log = logging.getLogger("mome.serving")

_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")


def prepare() -> None:
    """Import what the processes need once for all of them, where the system can fork: then they start at once."""
    if _FORKS:
        forkserver.set_forkserver_preload(["mome.serving.forks", "mome.serving.model", "mome.serving.reading"])
        forkserver.ensure_running()


class Ended(Exception):
    """The process has ended, or was ended because it took too long."""


class Fault(Exception):
    """The process met an error that is not the recording's.

    Attributes:
        lasts: whether the process may be unfit for anything from then on, as after an error of a GPU.
    """

    def __init__(self, lasts: bool = False):
        super().__init__(lasts)
        self.lasts = lasts

    def __str__(self) -> str:
        return "it met an error that may last, which has been noted above"


class Child:
    """A process that answers one message at a time.

    Args:
        make: called in the process with ``arguments``; what it returns is called with each message, and has an
            attribute ``facts``.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any):
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_answer, args=(theirs, make, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._thread = ThreadPoolExecutor(1)
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        watch = (self._process.sentinel, loop, self.ended)
        threading.Thread(target=_watch, args=watch, daemon=True).start()

    async def facts(self) -> Any:
        """Wait until the process is ready, and return what it says about itself; errors as :meth:`call`."""
        return await self._next(self._connection.recv, None)

    async def call(self, message: Any, timeout: float) -> Any:
        """Send a message and return its answer.

        Raises:
            Ended: the process has ended, or did not answer within ``timeout`` seconds and was ended.
            MomeError: the process raised it.
            Refusal: likewise.
            Fault: the process raised something else.
        """
        return await self._next(lambda: (self._connection.send(message), self._connection.recv())[1], timeout)

    async def _next(self, exchange: Callable[[], Any], timeout: float | None) -> Any:
        answer = asyncio.get_running_loop().run_in_executor(self._thread, exchange)
        try:
            outcome = await asyncio.wait_for(asyncio.shield(answer), timeout)
        except (EOFError, OSError) as error:  # TimeoutError is an OSError
            self.kill()
            with contextlib.suppress(EOFError, OSError):
                await answer
            if timeout is not None and isinstance(error, TimeoutError):
                raise Ended(f"it did not answer within {timeout:g} s") from error
            raise Ended("it has gone") from error
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> None:
        """End the process and what belongs to it."""
        self.kill()
        self._process.join(5)
        self._thread.shutdown(wait=False)
        self._connection.close()


def _watch(sentinel: int, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    multiprocessing.connection.wait([sentinel])
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(ended.set_result, None)


def _answer(connection: Any, make: Callable[..., Any], *arguments: Any) -> None:
    """The process: answer until the server has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server says when it is over
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # where memory is short, a recording's process ends before the server
    try:
        answers = make(*arguments)
        outcome: Any = answers.facts
    except MomeError as error:
        outcome = error
    while True:
        try:
            connection.send(outcome)
            message = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = answers(message)
        except (MomeError, Refusal) as error:
            outcome = error
        except Exception as error:
            log.exception("a request failed")
            outcome = Fault(isinstance(error, (RuntimeError, MemoryError)))
