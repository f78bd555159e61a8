"""Processes that a test starts end within a limit: at it they are ended, and Python's say where each stood."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from torch import multiprocessing

TWO = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONFAULTHANDLER": "1"}


def torchrun(log: Path, *arguments: str, cwd: Path | None = None, seconds: float = 240) -> None:
    """Run a program in two processes, which print to ``log``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    with log.open("w") as out:  # not a pipe, which a process left over would keep open
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **TWO}, stdout=out, stderr=out)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        for one in psutil.Process(process.pid).children(recursive=True):
            one.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)  # its children have ended, and so does it
        process.kill()
    assert process.wait() == 0, log.read_text()


def spawned(work: Callable[[int, Path], None], folder: Path, seconds: float = 120) -> None:
    """Do ``work(rank, folder)`` in two processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TWO.items():
            patch.setenv(name, value)
        context = multiprocessing.spawn(work, (folder,), nprocs=2, join=False)
    end = time.monotonic() + seconds
    while not context.join(1.0):  # raises if one has failed
        if time.monotonic() > end:
            for process in context.processes:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGABRT)
