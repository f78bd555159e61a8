"""One clock for all streams of a file, even where recordings were joined and the file's own clock starts again.

Packets are surveyed without being decoded. Where a stream's clock jumps back, or more than a minute ahead of all other
packets, a new part of the file begins. The streams of a part keep their offsets to one another. On the common clock, a
part begins as soon as all streams of the earlier parts have ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import av

# By how many seconds a packet's time may be less than the previous packet's, with and without decoding times.
_BACK, _REORDERED = 0.2, 1.0
# A jump ahead by more seconds than this is a new clock, not a pause.
BROKEN_CLOCK = 60.0
# Packets of the same moment are at most _INTERLEAVED seconds apart in a file. Once a new part has begun, packets of
# the part before it follow for at most _LATE seconds.
_INTERLEAVED, _LATE = 2.0, 0.7
# A gap of more seconds than this counts as a still picture.
_STILL = 1.0


@dataclass
class Clock:
    """Corrections to the packet times of one stream, and its extent.

    Attributes:
        start, end: seconds on the common clock; infinite if no packet has a time.
        still: total seconds of the gaps that are longer than a second.
        packets: number of packets.
    """

    start: float = inf
    end: float = -inf
    still: float = 0.0
    packets: int = 0
    _begins: list[int] = field(default_factory=list)
    _shifts: list[float] = field(default_factory=list)
    _wrong: set[int] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """Length of the stream according to its packets."""
        return max(self.end - self.start, 0.0)

    def mend(self, packet: av.Packet[Any], number: int) -> None:
        """Move the times of packet ``number`` of the stream, counted from 0, to the common clock."""
        if number in self._wrong:
            packet.pts = packet.dts = None
        place = bisect_right(self._begins, number) - 1
        if place < 0 or not self._shifts[place] or packet.time_base is None:
            return
        ticks = round(self._shifts[place] / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks

    def wrong(self, number: int) -> None:
        """Drop the time of packet ``number``."""
        self._wrong.add(number)

    def shift(self, begin: int, shift: float, start: float, end: float) -> None:
        """Move the packets from number ``begin`` on, which last from ``start`` to ``end``, by ``shift`` seconds."""
        self._begins.append(begin)
        self._shifts.append(shift)
        self.start, self.end = min(self.start, start + shift), max(self.end, end + shift)


class _Packet(NamedTuple):
    """One packet: its number in the stream, and its decoding, presentation and end time in seconds."""

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
    """Time that each stream had reached on its own clock when the part began."""
    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)


@dataclass
class _Stream:
    """State of one stream during the survey."""

    clock: Clock = field(default_factory=Clock)
    base: tuple[int, int] | None = None
    """Numerator and denominator of the seconds of a tick, the same for all packets of a stream."""
    packets: int = 0
    sent: float = 0.0
    step: float = 0.0
    doubtful: _Packet | None = None
    """A packet that either begins another part or has a wrong time: the next packet decides."""
    parts: list[tuple[int, int]] = field(default_factory=list)
    """(number of the first packet, index of the part)."""


def survey(packets: Iterable[av.Packet[Any]], joined: bool) -> dict[int, Clock]:
    """Find the clocks of all streams, by stream index.

    Args:
        packets: packets of all streams, in the order of the file.
        joined: whether files of this format can be concatenated; their streams are interleaved.
    """
    return _Survey(joined).of(packets)


class _Survey:
    def __init__(self, joined: bool) -> None:
        self.joined = joined
        self.streams: dict[int, _Stream] = {}
        self.parts: list[_Part] = []
        self.alone = False  # whether the last part is one stream's, which the part before lacks: it may belong there

    def of(self, packets: Iterable[av.Packet[Any]]) -> dict[int, Clock]:
        for packet in packets:
            stream = self.streams.setdefault(packet.stream_index, _Stream())
            number, stream.packets = stream.packets, stream.packets + 1
            pts, dts = packet.pts, packet.dts
            sent = pts if dts is None else dts
            if sent is None:
                continue
            if stream.base is None:
                if packet.time_base is None:
                    continue
                stream.base = packet.time_base.as_integer_ratio()
            tick, unit = stream.base  # a quotient of integers is rounded as a fraction is, and ten times as fast
            shown = sent if pts is None else pts
            if (shown - sent) * tick > BROKEN_CLOCK * unit:  # before a jump, a packet may have the next one's time
                shown = sent
                stream.clock.wrong(number)
            times = (ticks * tick / unit for ticks in (sent, shown, shown + (packet.duration or 0)))
            self._follow(packet.stream_index, _Packet(number, *times), _REORDERED if dts is None else _BACK)
        for stream in self.streams.values():
            stream.clock.packets = stream.packets
            if stream.doubtful is not None:
                stream.clock.wrong(stream.doubtful.number)
        self._settle()
        self._place()
        return {index: stream.clock for index, stream in self.streams.items()}

    def _follow(self, index: int, packet: _Packet, back: float) -> None:
        """Assign the next packet of a stream to its part."""
        stream = self.streams[index]
        doubtful, stream.doubtful = stream.doubtful, None
        if not stream.parts:
            # A stream that only the second recording has may start before a jump reveals that recording.
            late = self.joined and bool(self.parts) and self.parts[-1].now - packet.sent > _INTERLEAVED
            begins = not self.parts or late
            stream.parts.append(
                (packet.number, self._part_of(index, packet.sent, len(self.parts)) if begins else len(self.parts) - 1)
            )
        elif self._jumps(packet.sent, stream.sent, stream.parts[-1][1], back):
            if doubtful is None or self._jumps(packet.sent, doubtful.sent, None, back):
                if doubtful is not None:
                    stream.clock.wrong(doubtful.number)
                stream.doubtful = packet
                return
            stream.parts.append((doubtful.number, self._part_of(index, doubtful.sent, stream.parts[-1][1])))
            self._take(index, doubtful)
        elif doubtful is not None:
            stream.clock.wrong(doubtful.number)
        self._take(index, packet)

    def _jumps(self, sent: float, before: float, part: int | None, back: float) -> bool:
        latest = before if part is None else max(before, self.parts[part].latest)
        return sent < before - back or sent > latest + BROKEN_CLOCK

    def _part_of(self, index: int, sent: float, last: int) -> int:
        """Index of the part that another stream began at about this time, or of a new part."""
        for number in range(last + 1, len(self.parts)):
            if abs(sent - self.parts[number].now) < _INTERLEAVED:
                self.alone = False
                return number
        self._settle()
        self.alone = bool(self.parts) and index not in self.parts[-1].starts
        self.parts.append(_Part(sent, sent, {index: stream.sent for index, stream in self.streams.items()}))
        return len(self.parts) - 1

    def _settle(self) -> None:
        """Put a part that stayed one stream's into the part before: its packets only came late in the file."""
        if not self.alone:
            return
        self.alone = False
        part = self.parts.pop()
        last = len(self.parts) - 1
        for stream in self.streams.values():
            stream.parts[:] = [(first, min(among, last)) for first, among in stream.parts]
        whole = self.parts[last]
        whole.now, whole.latest = part.now, max(whole.latest, part.latest)
        whole.starts |= part.starts
        whole.ends |= part.ends

    def _take(self, index: int, packet: _Packet) -> None:
        stream = self.streams[index]
        part = self.parts[stream.parts[-1][1]]
        if index in part.starts:
            gap = packet.sent - stream.sent
            if gap > _STILL:
                stream.clock.still += gap
            elif gap > 0:
                stream.step = gap
        stream.sent = part.now = packet.sent
        part.latest = max(part.latest, packet.sent)
        # The duration of a part's last packet may include the jump to the next part.
        end = packet.end if packet.shown < packet.end <= packet.shown + _STILL else packet.shown + stream.step
        part.starts[index] = min(part.starts.get(index, inf), packet.shown)
        part.ends[index] = max(part.ends.get(index, -inf), end)

    def _place(self) -> None:
        """Shift every part to the end of the parts before it."""
        ends: dict[int, float] = {}
        for number, part in enumerate(self.parts):
            begins = min(part.starts.values())
            # A stream without packets here waits for the next part. If a stream goes on with its old clock, no
            # recording was appended: only the clock of another stream was set.
            waiting = [index for index in ends if index in part.starts or not self._went_on(index, number)]
            shift = max((ends[index] - part.starts.get(index, begins) for index in waiting), default=0.0)
            for index, start in part.starts.items():
                ends[index] = part.ends[index] + shift
                first = next(first for first, among in self.streams[index].parts if among == number)
                self.streams[index].clock.shift(first, shift, start, part.ends[index])

    def _went_on(self, index: int, number: int) -> bool:
        """Whether a stream kept its old clock well after part ``number`` began."""
        stream, before = self.streams[index], self.parts[number].others.get(index)
        return before is not None and stream.parts[-1][1] < number and stream.sent > before + _LATE
