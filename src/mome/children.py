"""Processes that this package starts on its own machine: they end with their parent, and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def ignored_by_children(number: signal.Signals) -> Iterator[None]:
    """Let processes that start here ignore a signal such as Ctrl-C, which all receive: this process ends them."""
    if threading.current_thread() is not threading.main_thread():  # other threads must not set signal handlers
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def begin_child() -> None:
    """Begin a process of a pool: OpenCV has one thread, and the process ends if its parent is killed."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
