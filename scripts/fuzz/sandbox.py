"""One case in a process of its own, with limits on time and memory, and a verdict on how it ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 20.0
MEGABYTES = 2000
_ADDRESSES = 16 * 2**30  # so that a mistake here does not bring the machine down

FAULTS = ("traceback", "crash", "hang", "memory", "silent")
"""Ends of a case that are faults. ``silent`` is a failure without a line that begins with the program's name."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``right``, ``refused`` in one line, or one of :data:`FAULTS`."""

    end: str
    seconds: float
    megabytes: float
    output: str


def command(*arguments: str) -> Callable[[], None]:
    """The command line in this process, which has imported it already."""

    def call() -> None:
        from mome.cli import main

        sys.argv = ["mome", *arguments]
        main()

    return call


def run(call: Callable[[], None], folder: Path) -> Outcome:
    """Run ``call`` in a forked process inside ``folder``, with its output in ``log`` there."""
    log = folder / "log"
    began = time.monotonic()
    child = os.fork()
    if not child:
        _child(call, log)
    status, usage = 0, None
    while usage is None:
        done, status, found = os.wait4(child, os.WNOHANG)
        if done:
            usage = found
        elif time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGABRT)  # which faulthandler answers with where it hangs
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return _outcome("hang", began, usage, log)
        else:
            time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    output = _read(log)
    if code < 0:
        end = "crash"
    elif "Traceback (most recent call last)" in output:
        end = "traceback"
    elif usage.ru_maxrss / 1024 > MEGABYTES:
        end = "memory"
    elif code == 0:
        end = "right"
    else:
        end = "refused" if "mome" in output else "silent"
    return _outcome(end, began, usage, log)


def _outcome(end: str, began: float, usage: resource.struct_rusage, log: Path) -> Outcome:
    return Outcome(end, time.monotonic() - began, usage.ru_maxrss / 1024, _read(log))


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-20_000:]


def _child(call: Callable[[], None], log: Path) -> None:
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, file), (2, file)):
            os.dup2(source, target)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(n, mode, closefd=False) for n, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        os.chdir(log.parent)  # whatever it writes under a name of its own
        faulthandler.enable(2)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        call()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


def warm_up(calls: Sequence[Callable[[], None]]) -> None:
    """Import what every case needs, once, before processes are forked from this one."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for call in calls:
        call()
