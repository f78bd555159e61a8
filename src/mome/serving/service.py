"""From files on disk to transcripts, many at once: the part of the server that knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mome.errors import MomeError, in_one_line
from mome.media.parts import Part
from mome.serving.budget import Budget
from mome.serving.children import Child, Ended, Fault, prepare
from mome.serving.line import Job, Line, needs_words
from mome.serving.metrics import Metrics
from mome.serving.model import Batch, Done, Facts, Model, Setup
from mome.serving.reading import Read, Reader, Step
from mome.serving.request import AUTO, Limits, Options, Refusal

log = logging.getLogger("mome.serving")

_PATIENCE = 120.0  # seconds that reading one part may take
_HANGS = (
    600.0  # seconds after which the model is taken for hung; what a request may take is shorter, and its own matter
)
_LONGEST_PAUSE = 60.0  # seconds between two starts of a model that does not stay


@dataclass(frozen=True)
class Serving:
    """How to serve.

    Attributes:
        model: folder or hub id.
        device, dtype, language_model_dtype: as in :func:`mome.load`.
        rates: of requests that name none; ``auto`` or such as ``"4,2"``; empty: the model's finest.
        budget: seconds that the model may need for all that waits, at rates ``auto``.
        batch: parts that are transcribed together.
        readers: processes that decode and find faces.
        limits: of each request.
    """

    model: str
    device: str = "auto"
    dtype: str = "float32"
    language_model_dtype: str | None = None
    rates: str = ""
    budget: float = 1.0
    batch: int = 16
    readers: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    limits: Limits = field(default_factory=Limits)


class Service:
    """A model that transcribes files for many at once.

    ::

        async with Service(Serving("mome-tiny")) as service:
            with service.place(), service.recording(path, options) as job:
                async for transcript in job:  # of each part, as it comes
                    ...
                job.transcript()

    Attributes:
        facts: what the model says of itself.
        metrics: figures.
        folder: where files may be kept; it is deleted at the end.

    Raises:
        MomeError: on entering, if the model cannot be loaded.
    """

    facts: Facts

    def __init__(self, serving: Serving):
        self.serving, self.limits = serving, serving.limits
        self.metrics = Metrics()
        self.budget = Budget(serving.budget, {})
        self._line = Line(serving.batch)
        self._taken = 0
        self._model: Child | None = None
        self._idle: list[asyncio.Future[None]] = []  # of processes that wait for something to do
        self._over: dict[int, Child] = {}  # jobs that a process still has open
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.watch("requests_taken", "Requests that are being answered.", lambda: self._taken)
        self.metrics.watch("waiting_speech_seconds", "Speech that waits for the model.", self._line.seconds)
        self.metrics.watch("model_ready", "Whether the model is there.", lambda: self.is_ready)

    async def __aenter__(self) -> Service:
        prepare()
        self._folder = tempfile.TemporaryDirectory(prefix="mome-serve-")
        self.folder = Path(self._folder.name)
        started = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._have_model(started))]
        self._tasks += [asyncio.create_task(self._have_reader()) for _ in range(self.serving.readers)]
        try:
            await started
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._folder.cleanup()

    @property
    def is_ready(self) -> bool:
        """Whether the model is there."""
        return self._model is not None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for requests.

        Raises:
            Refusal: there is none, or no model.
        """
        if not self.is_ready:
            raise self._starting()
        if self._taken >= self.limits.queue:
            wait = self.budget.wait(self._line.seconds())
            raise Refusal(429, "the server is busy: try again later", "queue_full", retry_after=wait)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def recording(
        self, path: Path, options: Options, began: float | None = None, like: Job | None = None
    ) -> Iterator[Job]:
        """A file to be transcribed, for the time of the block; leaving it frees its work.

        Args:
            path: the file; it must be there as long.
            options: what is asked for.
            began: time of the monotonic clock from which on the limit of time counts; now by default.
            like: a job with the same file, nothing of which has been read: this one gets what is read for that one.
        """
        job = Job(path, options)
        loop = asyncio.get_running_loop()
        spent = 0.0 if began is None else job.created - began
        timers = [
            loop.call_later(self.limits.wait, self._expire, job, True),
            loop.call_later(max(self.limits.time - spent, 0.0), self._expire, job, False),
        ]
        if like is not None:
            job.reading = True  # no process needs to
            like.listeners.append(job.take)
        self._line.add(job)
        self._wake()
        try:
            yield job
            if job.rates is not None:
                self.metrics.rates.labels(str(job.rates)).inc()
        finally:
            for timer in timers:
                timer.cancel()
            job.fail(Refusal(503, "the request is over", "over"))
            self._line.remove(job)
            if job.reader is not None and job.end is None:
                self._over[job.number] = job.reader
            self._wake()

    def _expire(self, job: Job, waiting: bool) -> None:
        if waiting and job.started is None:
            wait = self.budget.wait(self._line.seconds())
            message = f"the model had no time for the request within {self.limits.wait:g} s: try again later"
            job.fail(Refusal(503, message, "waited_too_long", retry_after=wait))
        elif not waiting:
            message = f"the request took longer than {self.limits.time:g} s: send a shorter recording, or try later"
            job.fail(Refusal(503, message, "took_too_long", retry_after=self.budget.wait(self._line.seconds())))

    def _starting(self) -> Refusal:
        return Refusal(503, "the model is being started: try again", "model_not_ready", retry_after=5)

    # --- the model ---------------------------------------------------------------------------------------------------

    async def _have_model(self, started: asyncio.Future[None]) -> None:
        """Keep a process with the model, and give it work."""
        pause = 1.0
        serving = self.serving
        setup = Setup(serving.model, serving.device, serving.dtype, serving.language_model_dtype, serving.rates == AUTO)
        while True:
            child: Child | None = None
            try:
                child = Child(Model, setup)
                self.facts = await child.facts()
                self.budget.costs = self.facts.costs | self.budget.costs
                self._model = child
                if not started.done():
                    started.set_result(None)
                await self._feed(child)
            except Exception as error:  # of any kind: without this task there would never be a model again
                if not started.done():
                    why = error if isinstance(error, MomeError) else MomeError("the model's process ended at its start")
                    started.set_exception(why)
                    return
                pause = 1.0 if self._model else min(2 * pause, _LONGEST_PAUSE)
                log.error("the model's process ended, and is started again: %s", in_one_line(error))
                self.metrics.ends.labels("model").inc()
            finally:
                self._model = None
                if child is not None:
                    child.close()
            await asyncio.sleep(pause)

    async def _feed(self, child: Child) -> None:
        while True:
            if not (chosen := self._line.batch()):
                await self._change(child)
                continue
            jobs = [job for job, _ in chosen]
            waiting = self._line.seconds() + sum(part.clip.seconds for _, part in chosen)
            for job in jobs:
                if job.started is None:
                    job.begin(self.budget.choose(job.options.rates, waiting))
            beams, words = jobs[0].options.beams, needs_words(*chosen[0])  # those of all in the batch
            clips, rates = [part.clip for _, part in chosen], [job.rates for job in jobs if job.rates is not None]
            self._wake()  # there is room to read more
            try:
                done: Done = await child.call(Batch(clips, rates, beams, words), _HANGS)
            except Fault as fault:
                for job in jobs:
                    job.fail(_internal())
                if fault.lasts:
                    raise
            except Ended:
                for job in jobs:
                    message = "the model's process ended while it had the recording: try again"
                    job.fail(Refusal(503, message, "model_ended", retry_after=5))
                raise
            else:
                self._account(chosen, done)

    def _account(self, chosen: list[tuple[Job, Part]], done: Done) -> None:
        speech = sum(part.clip.seconds for _, part in chosen)
        rates = [job.rates for job, _ in chosen if job.rates is not None]
        self.budget.learn(rates, speech, done.seconds, len(chosen) / self.serving.batch)
        self.metrics.speech.inc(speech)
        self.metrics.model_seconds.inc(done.seconds)
        self.metrics.batches.observe(len(chosen))
        for (job, part), outcome in zip(chosen, done.outcomes, strict=True):
            if isinstance(outcome, MomeError):
                job.fail(Refusal(400, str(outcome), "cannot_transcribe", "file"))
            else:
                job.deliver(outcome, part)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _have_reader(self) -> None:
        """Keep a process that reads recordings, and give it work."""
        while True:
            child: Child | None = None
            try:
                child = Child(Reader, self.serving.model, self.limits)
                await child.facts()
                await self._read(child)
            except Exception as error:  # of any kind, as above
                log.warning("a reader's process ended, and is started again: %s", in_one_line(error))
                self.metrics.ends.labels("reader").inc()
            finally:
                for job in self._line:
                    if job.reader is child:  # another process reads it from the start again
                        job.reader = None
                self._over = {number: reader for number, reader in self._over.items() if reader is not child}
                if child is not None:
                    child.close()
            await asyncio.sleep(0.1)

    async def _read(self, child: Child) -> None:
        while True:
            if (job := self._line.to_read(child)) is None:
                await self._change(child)
                continue
            over = tuple(number for number, reader in self._over.items() if reader is child)
            for number in over:
                del self._over[number]
            asked = job.options
            step = Step(job.number, job.path, asked.rates[0], asked.beams, asked.noise, job.given, over)
            job.reader, job.reading = child, True
            try:
                read: Read = await child.call(step, _PATIENCE)
            except (Refusal, Fault) as error:
                job.fail(error if isinstance(error, Refusal) else _internal())
                job.reader = None
            except Ended:
                message = "the recording cannot be read: it ends the decoder, or takes it too long"
                job.fail(Refusal(400, message, "invalid_file", "file"))
                raise
            else:
                job.take(read)
                self._wake()
            finally:
                job.reading = False

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _change(self, child: Child) -> None:
        """Wait until there may be something to do; raises :class:`Ended` if the process ends meanwhile."""
        changed = asyncio.get_running_loop().create_future()
        self._idle.append(changed)
        await asyncio.wait([changed, child.ended], return_when=asyncio.FIRST_COMPLETED)
        if child.ended.done():
            raise Ended

    def _wake(self) -> None:
        """Something can be read or transcribed."""
        for idle in self._idle:
            idle.set_result(None)
        self._idle.clear()


def _internal() -> Refusal:
    return Refusal(500, "the request met an error of the server, which has been noted there", "internal")
