"""The sound of a file: 16 kHz mono on the clip's clock, decoded and resampled piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from math import ceil

import av
import numpy as np
from scipy.signal import resample_poly

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


def read_audio(media: Media, damage: Damage, longest: float | None = None) -> np.ndarray | None:
    """Read all sound of a file at 16 kHz, from the clip's t = 0 on.

    Returns (samples,) float32 in [-1, 1], or None if the file has no sound. A late start and gaps are filled with
    silence; sound louder than full scale is scaled down as a whole. Raises :class:`MomeError` if the sample rate or
    the number of channels is beyond the limits, the sound is cut off or lasts longer than ``longest`` seconds, as far
    as possible before anything is decoded.
    """
    if media.audio is None:
        return None
    if media.audio.excess is not None:
        raise MomeError(f"{media.path}: {media.audio.excess}")
    most = LONGEST_SOUND if longest is None else min(longest, LONGEST_SOUND)
    begins = max(media.audio.clock.start - media.audio_origin, 0.0)
    if begins + media.audio.clock.seconds > most + _PADDING:
        raise _too_long(media, begins + media.audio.clock.seconds, most)
    media.check_complete(media.audio)
    remedy, levels = None, Levels(Remedy())
    while remedy != levels.remedy:
        remedy, damage.packets, damage.lost = levels.remedy, 0, 0
        wave = _read(media, damage, levels, most)
        damage.repairs = levels.notes()
        levels = Levels(levels.needed())
    if wave is None:
        return None
    peak = max(float(wave.max()), -float(wave.min()))
    if peak > 1:
        wave /= peak
    return wave


def _too_long(media: Media, seconds: float, most: float) -> MomeError:
    what = "that are read at most" if most == LONGEST_SOUND else "that can be heard at once"
    known = 0.0 if media.audio is None else media.audio.clock.seconds
    seconds = max(seconds, known)
    return MomeError(
        f"{media.path} lasts {seconds:.2f} s, longer than the {most:g} s {what}: cut it into shorter clips"
    )


def _read(media: Media, damage: Damage, levels: Levels, most: float) -> np.ndarray | None:
    """The sound at 16 kHz, mixed by the remedy of ``levels``; None if there is none."""
    assert media.audio is not None
    wave = _Growing(media, most)
    stretch: _Stretch | None = None
    waves = _Waves()
    for frame in chain.from_iterable(packets(media.path, media.audio, damage)):
        if not frame.samples or not frame.sample_rate:
            continue
        expected = stretch.end if stretch else media.audio.start
        start = expected if frame.pts is None else float(frame.pts * frame.time_base)
        if stretch is None or frame.sample_rate != stretch.rate or start - expected > _SOUND_GAP:
            if stretch is not None:
                wave.append(stretch.rest())
            stretch = _Stretch(start if stretch is None else max(start, expected), frame.sample_rate)
            wave.place(round((stretch.start - media.audio_origin) * SAMPLE_RATE))
        stretch.append(levels.mono(waves.of(frame), frame.sample_rate, _centre(frame.layout)))
        wave.append(stretch.ready())
    if stretch is not None:
        wave.append(stretch.rest())
    return wave.finish()


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
        resampled: np.ndarray = resample_poly(sound, self.up, self.down).astype(np.float32, copy=False)
        return resampled


class _Growing:
    """The sound at 16 kHz, extended in place: half the memory of joining all pieces at the end."""

    def __init__(self, media: Media, most: float):
        self.media, self.most = media, most
        self.wave = np.empty(0, np.float32)
        self.length = self.skipped = 0

    def place(self, at: int) -> None:
        """Continue at sample ``at``, after silence; at the beginning, samples before 0 will be skipped."""
        if at > self.length:
            self._grow(at)
        elif not self.length:
            self.skipped = -at

    def append(self, pieces: Iterator[np.ndarray]) -> None:
        for piece in pieces:
            left_out = min(self.skipped, len(piece))
            self.skipped -= left_out
            begin = self.length
            self._grow(begin + len(piece) - left_out)
            self.wave[begin : self.length] = piece[left_out:]

    def _grow(self, length: int) -> None:
        if length > self.most * SAMPLE_RATE:
            raise _too_long(self.media, length / SAMPLE_RATE, self.most)
        if length > len(self.wave):
            self.wave.resize(length + 60 * SAMPLE_RATE, refcheck=False)
        self.length = length

    def finish(self) -> np.ndarray | None:
        """``(samples,)`` float32; None if nothing was appended."""
        self.wave.resize(self.length, refcheck=False)
        return self.wave if self.length else None
