"""Whose turn it is: recordings on their way, and the parts of them that are transcribed together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

from mome.decoding.recordings import Seams, joined, placed
from mome.media.parts import Part
from mome.rates import Rates
from mome.serving.children import Child
from mome.serving.reading import End, Read
from mome.serving.request import Options, Refusal
from mome.text.transcript import Seconds, Transcript

_ALIKE = 2.0  # most ratio of lengths in a batch: shorter parts are padded to the longest
_UNREAD = 5.0  # seconds that a recording counts before anything of it is read

_numbers = count()


class Job:
    """A recording on its way: an iterator over the transcripts of its parts, in order.

    Attributes:
        number: tells it from others.
        path: the file.
        options: what was asked for.
        created, started: when it came, and when the model began with it; of the monotonic clock.
        rates: those that were chosen for it, once it has started.
        reader: the process that has it open.
        reading: whether that reads on now.
        parts: read, and waiting for the model.
        given: number of parts read so far.
        pending: number of parts that the model has now.
        end: what is known of it when all is read.
        read_seconds: time that reading took.
        listeners: called with what is read of it, as it is read.
        done: transcripts of its parts so far; where parts overlap, one is held back until the next is there.
    """

    def __init__(self, path: Path, options: Options):
        self.number, self.path, self.options = next(_numbers), path, options
        self.created = time.monotonic()
        self.started: float | None = None
        self.rates: Rates | None = None
        self.reader: Child | None = None
        self.reading = False
        self.parts: deque[Part] = deque()
        self.given = self.pending = 0
        self.end: End | None = None
        self.read_seconds = 0.0
        self.listeners: list[Callable[[Read], None]] = []
        self.done: list[Transcript] = []
        self._seams = Seams(options.words)
        self._outcomes: asyncio.Queue[Transcript | Refusal | None] = asyncio.Queue()
        self._is_over = False

    async def __aiter__(self) -> AsyncIterator[Transcript]:
        """The parts' transcripts as they come; raises :class:`Refusal` if there is one that cannot be had."""
        while (outcome := await self._outcomes.get()) is not None:
            if isinstance(outcome, Refusal):
                raise outcome
            yield outcome

    async def wait(self) -> None:
        """Wait until it is complete; raises as the iterator."""
        async for _ in self:
            pass

    def begin(self, rates: Rates) -> None:
        """The model begins with it, at these rates."""
        self.rates, self.started = rates, time.monotonic()

    def take(self, read: Read) -> None:
        """More of it is read."""
        self.read_seconds += read.seconds
        self.given += len(read.parts)
        if not self._is_over:
            self.parts += read.parts
            self.end = read.end
            self.settle()
        for listener in self.listeners:
            listener(read)

    def deliver(self, transcript: Transcript, part: Part) -> None:
        """The next part is transcribed."""
        self.pending -= 1
        for _, (settled,) in self._seams.of(part, [placed(transcript, part)]):
            assert settled is not None  # it was not None
            self.done.append(settled)
            self._outcomes.put_nowait(settled)
        self.settle()

    def settle(self) -> None:
        """Tell that it is complete, if it is."""
        if self.end is not None and not self.parts and not self.pending:
            self._outcomes.put_nowait(None)
            self._is_over = True

    def fail(self, refusal: Refusal) -> None:
        """There will be nothing more of it."""
        if not self._is_over:
            self._outcomes.put_nowait(refusal)
            self._is_over = True
            self.parts.clear()

    @property
    def is_over(self) -> bool:
        """Whether all of it is transcribed, or it failed."""
        return self._is_over

    def transcript(self) -> Transcript:
        """The whole recording's, once it is complete."""
        assert self.end is not None
        asked = self.rates or self.options.rates[0]
        present = Rates(asked.audio if self.end.hears else None, asked.video if self.end.sees else None)
        encode, decode = (sum(getattr(each.seconds, name) for each in self.done) for name in ("encode", "decode"))
        return joined("", present, self.done, Seconds(self.read_seconds, encode, decode), self.end.notes)


class Line:
    """The jobs in the order of their turns: who had one goes to the end, so none waits for another's whole recording.

    Args:
        most: parts that are transcribed together.
    """

    def __init__(self, most: int):
        self.most = most
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        """A new one."""
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """It is over; whether anybody still waits for it or not."""
        self._jobs.remove(job)

    def seconds(self) -> float:
        """Speech that is transcribed before that of a newcomer: a part of each job, long or short."""
        waiting = [job for job in self._jobs if not job.is_over and (job.parts or not job.given)]
        return sum(job.parts[0].clip.seconds if job.parts else _UNREAD for job in waiting)

    def to_read(self, reader: Child) -> Job | None:
        """The job that a process should read on with: one that has least waiting for the model."""
        if sum(len(job.parts) for job in self._jobs) >= 2 * self.most:
            return None  # memory stays bounded
        possible = [
            job
            for job in self._jobs
            if not job.is_over and not job.reading and job.end is None and job.reader in (None, reader)
        ]
        return min(possible, key=lambda job: len(job.parts), default=None)

    def batch(self) -> list[tuple[Job, Part]]:
        """Parts to transcribe together, of like length and decoded alike; each job in turn gives one, then another."""
        head = next((job for job in self._jobs if job.parts), None)
        if head is None:
            return []
        kind, length = _kind(head), head.parts[0].clip.seconds
        most = max(self.most // (head.options.beams or 1), 1)
        chosen: list[tuple[Job, Part]] = []
        turns = self._jobs
        while turns and len(chosen) < most:
            turns = [job for job in turns if job.parts and _kind(job) == kind and _alike(job.parts[0], length)]
            for job in turns[: most - len(chosen)]:
                job.pending += 1
                chosen.append((job, job.parts.popleft()))
        served = dict.fromkeys(job for job, _ in chosen)
        self._jobs = [job for job in self._jobs if job not in served] + list(served)
        return chosen


def _kind(job: Job) -> tuple[object, ...]:
    return job.options.beams, needs_words(job, job.parts[0]), job if job.options.alone else None


def needs_words(job: Job, part: Part) -> bool:
    """Whether the model must tell the words of a part: they are asked for, or needed to merge it with another."""
    return job.options.words or part.overlaps


def _alike(part: Part, length: float) -> bool:
    return length / _ALIKE <= part.clip.seconds <= length * _ALIKE
