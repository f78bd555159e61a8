"""Compression rates: how many encoder frames become one token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Literal

from mome.errors import MomeError

Task = Literal["avsr", "asr", "vsr"]
TASKS: tuple[Task, ...] = ("avsr", "asr", "vsr")

_RATE = r"\d+(?:\.\d+)?|-"
_RATES = re.compile(rf"\s*\(?\s*({_RATE})\s*,\s*({_RATE})\s*\)?\s*")


@dataclass(frozen=True, order=True)
class Rates:
    """One audio rate and one video rate; ``None`` leaves that modality out.

    ``Rates(4, 2)`` makes a token of four audio frames and of two video frames (AVSR), ``Rates(4, None)`` is ASR and
    ``Rates(None, 2)`` is VSR. Rates are whole numbers, except for models that take any rate (MQT): ``Rates(2.5, 1.5)``.
    """

    audio: float | None
    video: float | None

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` for rates below 1 and the empty pair."""
        if self.audio is None and self.video is None:
            raise MomeError("rates '-,-' leave out both modalities: give an audio rate, a video rate or both")
        for name, rate in (("audio", self.audio), ("video", self.video)):
            if rate is not None and not 1 <= rate < float("inf"):
                raise MomeError(f"{name} rate {rate} is not possible: a rate is a number from 1 up")
            if isinstance(rate, float) and rate.is_integer():
                object.__setattr__(self, name, int(rate))

    @classmethod
    def parse(cls, text: str | Rates) -> Rates:
        """Read ``"4,2"``, ``"(4, 2)"``, ``"4,-"`` or ``"-,2"``; raise :class:`MomeError` for other text."""
        if isinstance(text, Rates):
            return text
        match = _RATES.fullmatch(str(text))
        if match is None:
            raise MomeError(f"rates '{text}' are not readable: write AUDIO,VIDEO as in 4,2 (ASR: 4,-  VSR: -,2)")
        audio, video = (None if part == "-" else float(part) for part in match.groups())
        return cls(audio, video)

    @property
    def task(self) -> Task:
        """The task that these rates ask for."""
        if self.audio is None:
            return "vsr"
        return "asr" if self.video is None else "avsr"

    def for_task(self, task: Task) -> Rates:
        """These rates without the modality that ``task`` does not use.

        Raises:
            MomeError: the rate of a modality that it uses is missing.
        """
        needs_audio, needs_video = task != "vsr", task != "asr"
        if (needs_audio and self.audio is None) or (needs_video and self.video is None):
            raise MomeError(f"rates '{self}' lack a rate that the task {task} needs")
        return Rates(self.audio if needs_audio else None, self.video if needs_video else None)

    def __str__(self) -> str:
        return ",".join("-" if rate is None else str(rate) for rate in (self.audio, self.video))


@dataclass(frozen=True)
class RateSet:
    """The rates that a model is for: all pairs of its audio and video rates (AVSR), and each rate alone (ASR, VSR).

    Attributes:
        audio, video: rates of each modality; empty for a modality that the model does not read.
        tasks: tasks that the model is for.
        open: whether any other rate of these modalities, whole or not, is possible too (MQT); the listed rates are
            those that are evaluated and shown.
    """

    audio: tuple[int, ...] = ()
    video: tuple[int, ...] = ()
    tasks: tuple[Task, ...] = TASKS
    open: bool = False

    def __post_init__(self) -> None:
        """Sort and deduplicate; raise :class:`MomeError` for an empty set or a rate below 1."""
        if not self.audio and not self.video:
            raise MomeError("a rate set needs at least one audio rate or one video rate")
        for name in ("audio", "video"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        for rate in self.audio:
            Rates(rate, None)
        for rate in self.video:
            Rates(None, rate)

    def rates(self, tasks: Iterable[Task] | None = None) -> Iterator[Rates]:
        """All rates of the given tasks, by default of the set's tasks, in their order; the audio rate is outermost."""
        for task in self.tasks if tasks is None else tasks:
            for audio in self.audio if task != "vsr" else (None,):
                for video in self.video if task != "asr" else (None,):
                    yield Rates(audio, video)

    def main_rates(self) -> list[Rates]:
        """All rates of the task that uses every modality of the model: AVSR, or the task of its only modality."""
        return list(self.rates([next(self.rates()).task]))

    def only(self, which: str) -> RateSet:
        """The part of the set that is one pair of rates (``"4,2"``) or one task (``"asr"``).

        Raises:
            MomeError: the set does not have it.
        """
        kept = [rates for rates in self.rates() if which in (str(rates), rates.task)]
        if not kept:
            raise MomeError(f"'{which}' is no part of this model's rate set: {self}")
        audio, video = ({rate for rate in side if rate is not None} for side in zip(*map(astuple, kept), strict=True))
        return RateSet(tuple(audio), tuple(video), (kept[0].task,), self.open)

    def __contains__(self, rates: Rates) -> bool:
        return rates.task in self.tasks and self._covers(rates)

    def _covers(self, rates: Rates) -> bool:
        sides = ((rates.audio, self.audio), (rates.video, self.video))
        return all(rate is None or rate in known or (self.open and bool(known)) for rate, known in sides)

    def check(self, rates: Rates) -> Rates:
        """Return ``rates``; raise :class:`MomeError` naming the set if it does not have them."""
        if rates.task not in self.tasks and self._covers(rates):
            raise MomeError(f"rates ({rates}) ask for {rates.task}, which this model was not made for: {self}")
        if rates not in self:
            raise MomeError(f"rates ({rates}) are not in this model's rate set: {self}")
        return rates

    def __str__(self) -> str:
        parts = []
        if self.audio:
            parts.append("audio rates " + ", ".join(map(str, self.audio)))
        if self.video:
            parts.append("video rates " + ", ".join(map(str, self.video)))
        only = "" if set(self.tasks) == set(TASKS) else f", for {', '.join(self.tasks)} only"
        return " and ".join(parts) + " (or any other)" * self.open + only
