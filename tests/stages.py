"""Stages of work for a cluster, whose processes import nothing else to do it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from mome.errors import MomeError

DEADLY = 3


def doubled() -> Callable[[int], bytes]:
    def work(number: int) -> bytes:
        time.sleep(0.1)
        if number == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes([2 * number, 0])

    return work


def counted() -> Callable[[bytes], tuple[bytes, int]]:
    return lambda value: (value, len(value))


def broken() -> None:
    raise MomeError("no such model")
