"""One clock for all streams of a file, also where recordings were joined and the file's own starts anew.

Packets are surveyed without being decoded. Where a stream's clock jumps back, or a minute ahead of everything, a new
part of the file begins. The streams of a part keep their places to one another, and a part begins as soon as every
stream of those before it has ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import av

# A packet may come so many seconds before the one that was sent ahead of it, with and without decoding times.
_BACK, _REORDERED = 0.2, 1.0
# A jump ahead by more than this is another clock, not a pause.
BROKEN_CLOCK = 60.0
# Packets of one moment lie in a file at most so many seconds apart, those of one part beyond its end even less.
_INTERLEAVED, _LATE = 2.0, 0.7
# Pictures further apart than this stand still.
_STILL = 1.0


@dataclass
class Clock:
    """What must be done to the times of one stream, and what the survey found of it.

    Attributes:
        start, end: in seconds on the common clock; infinite if no packet has a time.
        still: seconds in which nothing new comes, each at least one in a row.
    """

    start: float = inf
    end: float = -inf
    still: float = 0.0
    _begins: list[int] = field(default_factory=list)
    _shifts: list[float] = field(default_factory=list)
    _wrong: set[int] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """How long the stream lasts by its packets."""
        return max(self.end - self.start, 0.0)

    def mend(self, packet: av.Packet, number: int) -> None:
        """Move the times of the stream's packet of this number, from 0 on, to the common clock."""
        if number in self._wrong:
            packet.pts = packet.dts = None
        place = bisect_right(self._begins, number) - 1
        if place < 0 or not self._shifts[place] or packet.time_base is None:
            return
        ticks = round(self._shifts[place] / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks

    def wrong(self, number: int) -> None:
        """Leave the time of this packet out."""
        self._wrong.add(number)

    def shift(self, begin: int, shift: float, start: float, end: float) -> None:
        """The packets from number ``begin`` on, from ``start`` to ``end``, are so many seconds off."""
        self._begins.append(begin)
        self._shifts.append(shift)
        self.start, self.end = min(self.start, start + shift), max(self.end, end + shift)


class _Found(NamedTuple):
    """One packet: its number in the stream, and when it was sent, is shown and ends."""

    number: int
    sent: float
    shown: float
    end: float


@dataclass
class _Part:
    """A stretch of the file on one clock."""

    now: float
    latest: float
    others: dict[int, float]
    """How far the streams were when the part began, on their own clocks."""
    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)


@dataclass
class _Stream:
    """One stream in the course of the survey."""

    clock: Clock = field(default_factory=Clock)
    packets: int = 0
    sent: float = 0.0
    step: float = 0.0
    doubtful: _Found | None = None
    """A packet that may begin another part or merely have a wrong time: the next one shows."""
    parts: list[tuple[int, int]] = field(default_factory=list)
    """(number of the first packet, part)."""


def survey(packets: Iterable[av.Packet], joined: bool) -> dict[int, Clock]:
    """The clocks of the streams that the packets belong to, by index.

    Args:
        packets: of all the streams, in the order of the file.
        joined: whether files of this kind can be put behind one another, and have their streams side by side.
    """
    return _Survey(joined).of(packets)


class _Survey:
    def __init__(self, joined: bool) -> None:
        self.joined = joined
        self.streams: dict[int, _Stream] = {}
        self.parts: list[_Part] = []

    def of(self, packets: Iterable[av.Packet]) -> dict[int, Clock]:
        for packet in packets:
            stream = self.streams.setdefault(packet.stream_index, _Stream())
            number, stream.packets = stream.packets, stream.packets + 1
            sent = packet.pts if packet.dts is None else packet.dts
            if sent is None or packet.time_base is None:
                continue
            shown = sent if packet.pts is None else packet.pts
            if (shown - sent) * packet.time_base > BROKEN_CLOCK:  # the last one before a jump may have the next one's
                shown = sent
                stream.clock.wrong(number)
            times = (float(ticks * packet.time_base) for ticks in (sent, shown, shown + (packet.duration or 0)))
            self._follow(packet.stream_index, _Found(number, *times), _REORDERED if packet.dts is None else _BACK)
        for stream in self.streams.values():
            if stream.doubtful is not None:
                stream.clock.wrong(stream.doubtful.number)
        self._place()
        return {index: stream.clock for index, stream in self.streams.items()}

    def _follow(self, index: int, found: _Found, back: float) -> None:
        """Take the next packet of a stream into the part that it belongs to."""
        stream = self.streams[index]
        doubtful, stream.doubtful = stream.doubtful, None
        if not stream.parts:
            # A stream that only the second recording has may come before what shows that it is another.
            late = self.joined and self.parts and self.parts[-1].now - found.sent > _INTERLEAVED
            begins = not self.parts or late
            stream.parts.append(
                (found.number, self._part_of(found.sent, len(self.parts)) if begins else len(self.parts) - 1)
            )
        elif self._jumps(found.sent, stream.sent, stream.parts[-1][1], back):
            if doubtful is None or self._jumps(found.sent, doubtful.sent, None, back):
                if doubtful is not None:
                    stream.clock.wrong(doubtful.number)
                stream.doubtful = found
                return
            stream.parts.append((doubtful.number, self._part_of(doubtful.sent, stream.parts[-1][1])))
            self._take(index, doubtful)
        elif doubtful is not None:
            stream.clock.wrong(doubtful.number)
        self._take(index, found)

    def _jumps(self, sent: float, before: float, part: int | None, back: float) -> bool:
        latest = before if part is None else max(before, self.parts[part].latest)
        return sent < before - back or sent > latest + BROKEN_CLOCK

    def _part_of(self, sent: float, last: int) -> int:
        """The part that another stream began at about this time, or a new one."""
        for number in range(last + 1, len(self.parts)):
            if abs(sent - self.parts[number].now) < _INTERLEAVED:
                return number
        self.parts.append(_Part(sent, sent, {index: stream.sent for index, stream in self.streams.items()}))
        return len(self.parts) - 1

    def _take(self, index: int, found: _Found) -> None:
        stream = self.streams[index]
        part = self.parts[stream.parts[-1][1]]
        if index in part.starts:
            gap = found.sent - stream.sent
            if gap > _STILL:
                stream.clock.still += gap
            elif gap > 0:
                stream.step = gap
        stream.sent = part.now = found.sent
        part.latest = max(part.latest, found.sent)
        # The jump to the next part may be taken for the duration.
        end = found.end if found.shown < found.end <= found.shown + _STILL else found.shown + stream.step
        part.starts[index] = min(part.starts.get(index, inf), found.shown)
        part.ends[index] = max(part.ends.get(index, -inf), end)

    def _place(self) -> None:
        """Shift every part to where those before it end."""
        ends: dict[int, float] = {}
        for number, part in enumerate(self.parts):
            begins = min(part.starts.values())
            # A stream that pauses waits for its place in the next part. One that goes on undisturbed shows that only
            # another's clock was set, and that no recording was put behind.
            waiting = [index for index in ends if index in part.starts or not self._went_on(index, number)]
            shift = max((ends[index] - part.starts.get(index, begins) for index in waiting), default=0.0)
            for index, start in part.starts.items():
                ends[index] = part.ends[index] + shift
                first = next(first for first, among in self.streams[index].parts if among == number)
                self.streams[index].clock.shift(first, shift, start, part.ends[index])

    def _went_on(self, index: int, number: int) -> bool:
        """Whether a stream kept its old clock for long after the part of this number began."""
        stream, before = self.streams[index], self.parts[number].others.get(index)
        return before is not None and stream.parts[-1][1] < number and stream.sent > before + _LATE
