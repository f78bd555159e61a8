"""Work on several processes or machines by Ray Data: actors in stages, back-pressure between them, and retries.

Ray is an extra, imported here alone. What goes from process to process is pickled by this package itself, within the
cluster, because Ray Data would make Arrow's columns of it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch
from typing import Any

from mome.errors import MomeError, in_one_line

LOCAL = "local"
"""The cluster that Ray's variable ``RAY_ADDRESS`` names, else one that is started here, for this run alone."""
TRIES = 3
"""Processes that may die at an item before it is given up."""
_SECONDS = 10  # to wait for an address
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_ENABLE_AUTO_CONNECT": "0",  # no second cluster is started unasked
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # of lines about processes that died, which Ray prints on stdout
}
"""Ray's own variables, unless the user has set them: stdout is for results."""


@dataclass(frozen=True)
class Stage:
    """A step of the work, done by processes of its own.

    Attributes:
        make: called once in each process; it returns the function of one item. Both are pickled.
        gpu: whether a process has a GPU to itself, where there are any.
    """

    make: Callable[[], Callable[[Any], Any]]
    gpu: bool = False


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item at which every process died that tried it."""


def process(
    work: Sequence[Any], stages: Sequence[Stage], address: str = LOCAL, tries: int = TRIES
) -> Iterator[tuple[int, Any]]:
    """Do work on a cluster, and yield each item's number once, with what the last stage made of it or :class:`Lost`.

    Results come as soon as they are there, in any order. A process that dies is replaced, and what it worked on is
    tried again.

    Args:
        work: the items.
        stages: each gets what the one before returned; the first gets the item.
        address: of a Ray cluster, or :data:`LOCAL`.
        tries: how many processes may die at an item before it is lost.

    Raises:
        MomeError: Ray is missing or cannot be used, processes die at their start, or a stage raised it.
        RuntimeError: a stage raised anything else; the message is the traceback.
    """
    if not work:
        return
    with connected(address) as ray:
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 1), int(there.get("GPU", 0))
        on_cpu = [stage for stage in stages if not (stage.gpu and gpus)]
        surroundings = {name: value for name, value in os.environ.items() if name.startswith("MOME_")}
        counter = ray.remote(_Tries).options(num_cpus=0).remote(tries)
        with ray.data.DataContext.current(context):
            rows = [{"number": number, "value": pickle.dumps(item)} for number, item in enumerate(work)]
            data = ray.data.from_items(rows, override_num_blocks=len(rows))  # a block is what is tried again as a whole
            for place, stage in enumerate(stages):
                gpu = stage not in on_cpu
                # CPUs are divided evenly, those left over among the first stages.
                size = gpus if gpu else (int(cpus) + len(on_cpu) - 1 - on_cpu.index(stage)) // len(on_cpu)
                # One item at a time, so that a process that dies takes its own along and no other; with that, Ray Data
                # would not make more processes by itself.
                pool = ray.data.ActorPoolStrategy(size=max(1, min(size, len(work))), max_tasks_in_flight_per_actor=1)
                data = data.map(
                    _Worker,
                    fn_constructor_args=(stage.make, place, counter, Path.cwd(), surroundings),
                    compute=pool,
                    num_cpus=None if gpu else min(1, cpus / len(stages)),  # Ray Data wants one of both
                    num_gpus=1 if gpu else None,
                )
            with closing(iter(data.iter_rows())) as results:  # its threads end before Ray does
                for row in results:
                    value = pickle.loads(row["value"])
                    if isinstance(value, _Raised):
                        raise value.error
                    yield row["number"], value


@contextmanager
def connected(address: str = LOCAL, **options: Any) -> Iterator[Any]:
    """Ray, connected to a cluster for the time of the block, unless the program is connected to one already.

    Args:
        address: as for :func:`process`.
        options: of ``ray.init``.

    Raises:
        MomeError: Ray is missing, or the cluster cannot be used.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise MomeError("work on a cluster needs Ray: pip install 'mome[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    if address == LOCAL:
        address = os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL:
        options = {"include_dashboard": False, **options}
    handler = signal.getsignal(signal.SIGTERM)
    place = fullmatch(r"(?:ray://)?([^/]+):(\d{1,5})", address)
    try:
        if place:  # Ray would wait for minutes
            socket.create_connection((place[1].strip("[]"), int(place[2])), _SECONDS).close()
        with _closed_stderr():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        hint = " (RAY_AUTH_MODE=token if it asks for one)" if type(error) is ConnectionError else ""
        raise MomeError(f"the Ray cluster {address} cannot be used: {in_one_line(error)}{hint}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _closed_stderr() -> Iterator[None]:
    """What Ray's own code, which is not Python, writes on stderr is lost."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@dataclass(frozen=True)
class _Raised:
    """Stands for the result of an item if a stage raised an exception."""

    error: Exception


class _Tries:
    """An actor that counts what is begun again because a process died; Ray would do so without end."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.begun: Counter[tuple[int, int | str]] = Counter()

    def begin(self, stage: int, what: int | str) -> bool:
        """Whether an item, or the start of a process, may be tried once more."""
        self.begun[stage, what] += 1
        return self.begun[stage, what] <= self.most

    def end(self, stage: int, what: int | str) -> None:
        """It is done."""
        del self.begun[stage, what]


class _Worker:
    """An actor: what a stage makes in its process, applied to rows of an item's number and its pickled value."""

    def __init__(
        self, make: Callable[[], Any], stage: int, tries: Any, folder: Path, surroundings: dict[str, str]
    ) -> None:
        import ray

        os.environ.update(surroundings)
        with suppress(OSError):  # relative paths mean what they mean where the run was started
            os.chdir(folder)
        self.stage, self.tries = stage, tries
        self.get, own = ray.get, ray.get_runtime_context().get_actor_id()  # the same after a restart
        if self.get(tries.begin.remote(stage, own)):
            self.work = _attempt(make)
            self.get(tries.end.remote(stage, own))
        else:
            self.work = _Raised(
                MomeError("processes of the Ray cluster die at their start, perhaps for want of memory")
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        value = pickle.loads(row["value"])
        if not isinstance(value, _Raised | Lost):
            if isinstance(self.work, _Raised):
                value = self.work
            elif self.get(self.tries.begin.remote(self.stage, row["number"])):
                value = _attempt(self.work, value)
            else:
                value = Lost()
        return {"number": row["number"], "value": pickle.dumps(value)}


def _attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the exception for the process that started the work: Ray would try again."""
    try:
        return work(*arguments)
    except MomeError as error:
        return _Raised(error)
    except Exception:
        return _Raised(RuntimeError(traceback.format_exc()))
