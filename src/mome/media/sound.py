"""The sound of a file: 16 kHz mono on the clip's clock, decoded and resampled piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from typing import TypeVar

import av
import numpy as np

from mome.clip import SAMPLE_RATE
from mome.errors import MomeError
from mome.media.decode import Damage, Media, packets
from mome.media.levels import Levels, Remedy
from mome.media.limits import LONGEST_SOUND

# Gaps in the timestamps of more seconds than this are filled with silence, shorter ones closed.
_SOUND_GAP = 0.04
# Seconds by which the packets may last longer than the sound: encoders pad both ends.
_PADDING = 0.5
# Seconds of sound that are resampled at once.
_BLOCK = 30
# Ratios of sample rates are exact up to this denominator, and approximate beyond it to keep filters short.
_LARGEST_RATIO = 50_000
# With more planes than this, PyAV's conversion to an array reads beyond the frame's memory.
_MOST_PLANES = 7
_ARRAYS = frozenset(("dbl", "dblp", "flt", "fltp", "s16", "s16p", "s32", "s32p", "u8", "u8p"))

_T = TypeVar("_T")


def check_sound(media: Media, most: float) -> None:
    """Check what the file declares about its sound, before anything is decoded.

    Raises:
        MomeError: its sample rate or the number of its channels is beyond the limits, it is cut off or lasts longer
            than ``most`` seconds.
    """
    if media.audio is None:
        return
    if media.audio.excess is not None:
        raise MomeError(f"{media.path}: {media.audio.excess}")
    begins = max(media.audio.clock.start - media.audio_origin, 0.0)
    if begins + media.audio.clock.seconds > most + _PADDING:
        raise _too_long(media, begins + media.audio.clock.seconds, most)
    media.check_complete(media.audio)


def read_audio(media: Media, damage: Damage, longest: float | None = None) -> np.ndarray | None:
    """Read all sound of a file at 16 kHz, from the clip's t = 0 on.

    Returns (samples,) float32 in [-1, 1], or None if the file has no sound. A late start and gaps are filled with
    silence; sound louder than full scale is scaled down as a whole. Raises :class:`MomeError` if the sample rate or
    the number of channels is beyond the limits, the sound is cut off or lasts longer than ``longest`` seconds, as far
    as possible before anything is decoded.
    """
    _, wave = _settled(media, damage, LONGEST_SOUND if longest is None else min(longest, LONGEST_SOUND), _joined)
    if wave is None:
        return None
    peak = _peak(wave)
    if peak > 1:
        wave /= peak
    return wave


@dataclass(frozen=True)
class SoundStream:
    """The sound of a file of any length, equal to that of :func:`read_audio`, block by block.

    What the whole sound decides, the mix of its channels and its scale, is found by decoding it once before; nothing
    is kept of that.
    """

    media: Media
    remedy: Remedy
    peak: float
    """Of the loudest sample, before sound that is louder than full scale is scaled down."""

    @classmethod
    def of(cls, media: Media, damage: Damage) -> SoundStream | None:
        """Decode the sound once; None if the file has none. Raises :class:`MomeError` as :func:`read_audio` does."""
        remedy, peak = _settled(media, damage, LONGEST_SOUND, lambda pieces: max(map(_peak, pieces), default=None))
        return None if peak is None else cls(media, remedy, peak)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of (samples,) float32 in [-1, 1], of about 30 seconds at most, from the clip's t = 0 on."""
        for piece in _pieces(self.media, Damage(), Levels(self.remedy), LONGEST_SOUND):
            yield piece / self.peak if self.peak > 1 else piece


def _settled(
    media: Media, damage: Damage, most: float, gather: Callable[[Iterator[np.ndarray]], _T | None]
) -> tuple[Remedy, _T | None]:
    """What ``gather`` makes of the pieces of the sound, mixed as they need it; None if the file has no sound."""
    check_sound(media, most)
    remedy, levels, gathered = None, Levels(Remedy()), None
    if media.audio is None:
        return levels.remedy, None
    while remedy != levels.remedy:
        remedy, damage.packets, damage.lost = levels.remedy, 0, 0
        gathered = gather(_pieces(media, damage, levels, most))
        damage.repairs = levels.notes()
        levels = Levels(levels.needed())
    return levels.remedy, gathered


def _peak(wave: np.ndarray) -> float:
    return max(float(wave.max()), -float(wave.min()))


def _too_long(media: Media, seconds: float, most: float) -> MomeError:
    what = "that are read at most" if most == LONGEST_SOUND else "that can be heard at once"
    known = 0.0 if media.audio is None else media.audio.clock.seconds
    seconds = max(seconds, known)
    return MomeError(
        f"{media.path} lasts {seconds:.2f} s, longer than the {most:g} s {what}: cut it into shorter clips"
    )


def _pieces(media: Media, damage: Damage, levels: Levels, most: float) -> Iterator[np.ndarray]:
    """The sound at 16 kHz in pieces that are not empty, mixed by the remedy of ``levels``."""
    assert media.audio is not None
    line = _Line(media, most)
    stretch: _Stretch | None = None
    waves = _Waves()
    for frame in chain.from_iterable(packets(media.path, media.audio, damage)):
        if not frame.samples or not frame.sample_rate:
            continue
        expected = stretch.end if stretch else media.audio.start
        start = expected if frame.pts is None else float(frame.pts * frame.time_base)
        if stretch is None or frame.sample_rate != stretch.rate or start - expected > _SOUND_GAP:
            if stretch is not None:
                yield from line.placed(stretch.rest())
            stretch = _Stretch(start if stretch is None else max(start, expected), frame.sample_rate)
            yield from line.silence(round((stretch.start - media.audio_origin) * SAMPLE_RATE))
        stretch.append(levels.mono(waves.of(frame), frame.sample_rate, _centre(frame.layout)))
        yield from line.placed(stretch.ready())
    if stretch is not None:
        yield from line.placed(stretch.rest())


def _centre(layout: av.AudioLayout) -> int | None:
    """Index of the front centre channel, in which films have their speech."""
    return next((number for number, channel in enumerate(layout.channels) if channel.name == "FC"), None)


class _Waves:
    """Converts frames of any sample format and number of channels to arrays."""

    def __init__(self) -> None:
        self.packers: dict[tuple[str, str, int], av.AudioResampler] = {}

    def of(self, frame: av.AudioFrame) -> np.ndarray:
        """(channels, samples) float32, full scale 1."""
        channels, planar = frame.layout.nb_channels, frame.format.is_planar
        if frame.format.name in _ARRAYS and not (planar and channels > _MOST_PLANES):
            samples = frame.to_ndarray()
        else:
            samples, planar = self._packed(frame), False
        if not planar:
            samples = samples.reshape(-1, channels).T
        if samples.dtype.kind == "u":
            return samples.astype(np.float32) / 128 - 1
        if samples.dtype.kind == "i":
            return samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)

    def _packed(self, frame: av.AudioFrame) -> np.ndarray:
        """Convert a frame to a single plane of float32 with FFmpeg."""
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self.packers:
            self.packers[key] = av.AudioResampler(format="flt")
        return np.concatenate([part.to_ndarray() for part in self.packers[key].resample(frame)], axis=1)


class _Stretch:
    """Sound without gaps, resampled as it arrives; ``start`` and ``end`` are the times of its first and next sample."""

    def __init__(self, start: float, rate: int):
        self.start, self.rate = start, rate
        small, large = sorted((SAMPLE_RATE, rate))
        ratio = Fraction(small, large).limit_denominator(_LARGEST_RATIO)
        self.up, self.down = sorted(ratio.as_integer_ratio(), reverse=rate < SAMPLE_RATE)
        # Samples that the filter reaches to either side; blocks begin where an output sample lies on an input sample.
        self.reach = self.down * ceil(10 * max(self.up, self.down) / (self.up * self.down))
        self.block = self.down * ceil(_BLOCK * rate / self.down)
        self.samples = self.before = self.waiting = 0
        self.chunks: list[np.ndarray] = []

    @property
    def end(self) -> float:
        return self.start + self.samples / self.rate

    def append(self, chunk: np.ndarray) -> None:
        self.chunks.append(chunk)
        self.samples += len(chunk)
        self.waiting += len(chunk)

    def ready(self) -> Iterator[np.ndarray]:
        """Resample as many full blocks as there are; the result is bit for bit that of resampling all at once."""
        while self.waiting >= self.before + self.block + self.reach:
            sound, size = np.concatenate(self.chunks), self.before + self.block
            yield self._resampled(sound[: size + self.reach])[self._out(self.before) : self._out(size)]
            self.before = min(self.reach, size)
            self.chunks = [sound[size - self.before :]]
            self.waiting = len(self.chunks[0])

    def rest(self) -> Iterator[np.ndarray]:
        """Resample the remaining samples."""
        yield self._resampled(np.concatenate(self.chunks))[self._out(self.before) :]

    def _out(self, samples: int) -> int:
        return samples // self.down * self.up

    def _resampled(self, sound: np.ndarray) -> np.ndarray:
        """``sound`` at 16 kHz; the filter has no delay, so the first sample stays in its place."""
        if self.up == self.down:
            return sound
        from scipy.signal import resample_poly  # slow to import, and sound of 16 kHz needs none

        resampled: np.ndarray = resample_poly(sound, self.up, self.down).astype(np.float32, copy=False)
        return resampled


class _Line:
    """The clip's clock in samples: silence where no stretch is, nothing before 0."""

    def __init__(self, media: Media, most: float):
        self.media, self.most = media, most
        self.length = self.skipped = 0

    def silence(self, until: int) -> Iterator[np.ndarray]:
        """Continue at sample ``until``, after silence; at the beginning, samples before 0 will be skipped."""
        if until > self.length:
            gap, block = until - self.length, _BLOCK * SAMPLE_RATE
            self._grow(gap)
            for start in range(0, gap, block):
                yield np.zeros(min(block, gap - start), np.float32)
        elif not self.length:
            self.skipped = -until

    def placed(self, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for piece in pieces:
            left_out = min(self.skipped, len(piece))
            self.skipped -= left_out
            if left_out < len(piece):
                self._grow(len(piece) - left_out)
                yield piece[left_out:]

    def _grow(self, samples: int) -> None:
        self.length += samples
        if self.length > self.most * SAMPLE_RATE:
            raise _too_long(self.media, self.length / SAMPLE_RATE, self.most)


def _joined(pieces: Iterator[np.ndarray]) -> np.ndarray | None:
    """All pieces, ``(samples,)`` float32, None if there is none: grows in place, half the memory of joining a list."""
    wave, length = np.empty(0, np.float32), 0
    for piece in pieces:
        begin, length = length, length + len(piece)
        if length > len(wave):
            wave.resize(length + 60 * SAMPLE_RATE, refcheck=False)
        wave[begin:length] = piece
    wave.resize(length, refcheck=False)
    return wave if length else None
