"""Recordings of any length: transcribed part by part, and joined again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mome.clip import MOUTH_SIZE, Clip
from mome.errors import MomeError
from mome.media.face import FaceDetector
from mome.media.motion import moving, moving_seconds
from mome.media.parts import Part, Whole, parts
from mome.media.recording import FaceChoice, Recording
from mome.media.speech import Piece
from mome.rates import Rates
from mome.text.transcript import Seconds, Segment, Tokens, Transcript, Word
from mome.text.words import merged as merged_words

if TYPE_CHECKING:
    from mome.decoding.transcriber import Transcriber

Progress = Callable[[float, float], None]
"""Called with the seconds that are done and all seconds."""
Row = list[Transcript | None]
"""Transcripts of a part at several rates; ``None`` at rates that it does not have."""

MARGIN = 4 / 3
"""Length of the longest part over the mean length of the clips that were trained on: longer ones are rare in training,
and shorter ones have no room for the silence around a sentence."""
LONGEST_PART = 60.0
"""Seconds of a part for models without a window."""
LOOK = 2.0
"""Seconds of video that are looked at together to find out who is in it."""
NOTHING_SAID = "nothing is said in it: no speech is heard, and no mouth is seen speaking"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a recording.

    Attributes:
        transcripts: those of what was done before, at each of the rates.
    """

    def __init__(self, transcripts: list[Transcript]):
        super().__init__()
        self.transcripts = transcripts


class Recordings:
    """Transcribes recordings with a model, part by part.

    Args:
        transcriber: the model.
        rates: R rates to transcribe at.
        generation: options of decoding, which say how much fits.
        audio_track, max_segment, vad, face, alter: see :meth:`~mome.decoding.Transcriber.transcribe_rates`.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        rates: Sequence[Rates],
        generation: dict[str, Any],
        audio_track: int | None,
        max_segment: float | None,
        vad: bool,
        alter: Callable[[Clip], Clip] | None,
        face: FaceChoice | int = "largest",
    ):
        if max_segment is not None and not 1 <= max_segment < inf:
            raise MomeError(f"max_segment={max_segment} is not possible: give at least 1 second")
        self.transcriber, self.rates, self.generation = transcriber, rates, generation
        self.audio_track, self.vad, self.alter, self.face = audio_track, vad, alter, face
        limits = [limit for limit in transcriber.window(rates, **generation) if limit is not None]
        self.window = min([*limits, LONGEST_PART])
        trained = transcriber.model.config.segment_seconds
        self.longest = max(min(max_segment or MARGIN * (trained or inf), self.window), 1.0)
        self.notes: list[str] = []

    def transcribe(
        self, path: str | Path, batch: int, progress: Progress | None, options: dict[str, Any]
    ) -> list[Transcript]:
        """The recording's transcript at each of the rates that it has; raises :class:`Interrupted` after Ctrl-C."""
        by_rate: list[list[Transcript]] = [[] for _ in self.rates]
        done = 0.0
        try:
            for done, row in self.rows(path, batch, options):
                for found, transcript in zip(by_rate, row, strict=True):
                    if transcript is not None:
                        found.append(transcript)
                if progress is not None:
                    progress(done, max(self.seconds, done))
        except KeyboardInterrupt as stop:
            if not any(by_rate):
                raise
            self.notes.append(f"{path}: interrupted after {done:.0f} of {self.seconds:.0f} s, the rest is missing")
            raise Interrupted(self._joined(str(path), by_rate)) from stop
        return self._joined(str(path), by_rate)

    def _joined(self, path: str, by_rate: list[list[Transcript]]) -> list[Transcript]:
        """The transcript at each of the rates from those of the parts so far."""
        nothing = not any(by_rate)
        results = []
        for asked, transcripts in zip(self.rates, by_rate, strict=True):
            if transcripts or (nothing and asked in self.possible):
                encode, decode = (sum(getattr(t.seconds, name) for t in transcripts) for name in ("encode", "decode"))
                seconds = Seconds(self.media_seconds, encode, decode)
                results.append(joined(path, self._present(asked), transcripts, seconds, self.notes))
        return results

    def rows(self, path: str | Path, batch: int, options: dict[str, Any]) -> Iterator[tuple[float, Row]]:
        """For each part the seconds up to its end, and its R transcripts: ``None`` at rates that it does not have."""
        seams = Seams(options["words"])
        for part, row in self._read(Path(path), batch, options):
            yield from seams.of(part, row)

    def _read(self, path: Path, batch: int, options: dict[str, Any]) -> Iterator[tuple[Part, Row]]:
        """The parts of a recording, and the transcripts of each by itself."""
        if batch < 1:
            raise MomeError(f"batch={batch} is not possible: give at least 1")
        self.media_seconds = 0.0
        waiting: list[Part] = []
        parts = self.parts(path)
        while True:
            began = time.perf_counter()
            part = next(parts, None)
            self.media_seconds += time.perf_counter() - began
            if part is not None:
                waiting.append(part)
            if waiting and (part is None or len(waiting) >= batch):
                yield from self._transcribed(waiting, options)
                waiting = []
            if part is None:
                return

    def parts(self, path: Path) -> Iterator[Part]:
        """The parts of a recording that fit the model."""
        read: dict[str, Any] = {"audio_track": self.audio_track}
        if self.vad:
            with Recording(
                path,
                audio=any(rate.audio is not None for rate in self.rates),
                video=any(rate.video is not None for rate in self.rates),
                detector=self.transcriber.detector,
                face=self.face if isinstance(self.face, str) else "largest",
                **read,
            ) as recording:
                self.seconds = recording.seconds
                self._check(recording.has_sound, recording.has_mouth, path)
                if recording.seconds > self.window or self.face != "largest":
                    yield from self._of_face(recording, path)
                    self.notes += recording.warnings
                    return
        clip = self.transcriber.load_clip(path, self.rates, **read, **self.generation)
        self.seconds = clip.seconds
        self._check(clip.audio is not None, clip.mouth is not None, path)
        if not self.vad:
            yield Part(0.0, clip)
            return
        found = list(parts(Whole(clip), self.longest, path))
        if len(found) == 1 or (found and clip.seconds <= self.longest):
            least = min((part.no_speech for part in found if part.no_speech is not None), default=None)
            yield Part(0.0, clip, least, all(part.still for part in found))
        else:
            self.notes += clip.warnings
            yield from found

    def _of_face(self, recording: Recording, path: Path) -> Iterator[Part]:
        """The parts of a recording; of one person alone, those in which that mouth moves."""
        if isinstance(self.face, str):
            yield from parts(recording, self.longest, path)
        else:
            person = Person(recording, self.face)
            said = parts(person, self.longest, path)
            yield from (part for part in said if part.clip.mouth is not None and not part.still)
            if not person.seen:
                self.notes.append(f"{path}: no face {self.face} is seen at any speech: see mome.decoding.people")

    def _transcribed(self, waiting: list[Part], options: dict[str, Any]) -> Iterator[tuple[Part, Row]]:
        """Transcribe parts together that have the same of the rates."""
        if self.alter is not None:
            waiting = [replace(part, clip=self.alter(part.clip)) for part in waiting]
        if any(part.overlaps for part in waiting):
            options = {**options, "words": True}
        rows: list[Row] = [[None] * len(self.rates) for _ in waiting]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, part in enumerate(waiting):
            columns = tuple(column for column, rate in enumerate(self.rates) if self._can(part, rate))
            groups.setdefault(columns, []).append(number)
        for columns, numbers in groups.items():
            clips = [waiting[number].clip for number in numbers]
            chosen = [self.rates[column] for column in columns or range(len(self.rates))]  # none: says why not
            for number, found in zip(numbers, self.transcriber.transcribe_batch(clips, chosen, **options), strict=True):
                for column, transcript in zip(columns, found, strict=True):
                    rows[number][column] = placed(transcript, waiting[number])
        yield from zip(waiting, rows, strict=True)

    def _check(self, hears: bool, sees: bool, path: Path) -> None:
        """Raise :class:`MomeError` if what the recording has suffices for none of the rates."""
        self.hears, self.sees = hears, sees
        sound = np.empty(0, np.float32) if hears else None
        mouth = np.empty((0, MOUTH_SIZE, MOUTH_SIZE), np.uint8) if sees else None
        any_part = Part(0.0, Clip(sound, mouth, 0.0, path))
        self.possible = [rate for rate in self.rates if self._can(any_part, rate)]
        if not self.possible:
            self.transcriber.usable(any_part.clip, self.rates[0])

    def _present(self, rates: Rates) -> Rates:
        """The rates without modalities that the recording lacks."""
        return Rates(rates.audio if self.hears else None, rates.video if self.sees else None)

    def _can(self, part: Part, rate: Rates) -> bool:
        try:
            self.transcriber.usable(part.clip, rate)
        except MomeError:
            return False
        return True


class Seams:
    """Merges the transcripts of a recording's parts where these overlap; each is held back until the next is known.

    Args:
        words: whether words are asked for; others are dropped when they have served.
    """

    def __init__(self, words: bool):
        self.words = words
        self._held: tuple[float, Row] | None = None

    def of(self, part: Part, row: Row) -> list[tuple[float, Row]]:
        """Take the next part; returns those that are now settled: the seconds up to the end of each, and its row.

        Args:
            part: in the recording's order.
            row: its transcripts, see :func:`placed`; with words if it :attr:`~mome.media.parts.Part.overlaps`.
        """
        settled = []
        if self._held is not None:
            done, before = self._held
            pairs = [merged(*pair, part) for pair in zip(before, row, strict=True)]
            settled.append((done, [first for first, _ in pairs]))
            row = [second for _, second in pairs]
        self._held = (part.start + part.clip.seconds, row)
        if not part.continued:
            settled.append(self._held)
            self._held = None
        return [(done, [_told(each, self.words) for each in found]) for done, found in settled]


class Person:
    """A recording with the mouth of one person alone.

    Args:
        recording: whose :meth:`~mome.media.recording.Recording.mouths` have numbers.
        number: the person's.

    Attributes:
        seen: whether the person was seen in any span so far.
    """

    def __init__(self, recording: Recording, number: int):
        self.recording, self.number, self.seen = recording, number, False
        self.seconds, self.has_sound, self.has_mouth = recording.seconds, recording.has_sound, recording.has_mouth

    def sound(self) -> Iterator[np.ndarray]:
        """The recording's."""
        return self.recording.sound()

    def mouth(self, start: float, end: float) -> np.ndarray | None:
        """The person's, as far as it is seen."""
        crops = self.recording.mouths(start, end).get(self.number)
        self.seen |= crops is not None
        return crops

    def moving(self, longest: float) -> Iterator[tuple[Piece, np.ndarray]]:
        """The pieces in which the person's mouth moves."""
        return moving(self.mouth, self.seconds, longest)


def people(path: str | Path, detector: FaceDetector | None = None) -> list[int]:
    """The numbers of the persons whose mouths move for at least a second in all, from left to right.

    Raises:
        MomeError: the file is unusable, or has no video.
    """
    moved: dict[int, float] = {}  # in the order in which they are seen, from left to right
    with Recording(path, audio=False, detector=detector) as recording:
        for start in (look * LOOK for look in range(int(recording.seconds / LOOK) + 1)):
            for person, mouth in recording.mouths(start, start + LOOK).items():
                moved[person] = moved.get(person, 0.0) + moving_seconds(mouth)
    return [person for person, seconds in moved.items() if seconds >= 1]


def placed(transcript: Transcript, part: Part) -> Transcript:
    """The transcript of a part with its segments' times from the start of the recording."""

    def later(word: Word) -> Word:
        return replace(word, start=round(word.start + part.start, 3), end=round(word.end + part.start, 3))

    segments = [
        replace(
            segment,
            start=round(segment.start + part.start, 3),
            end=round(segment.end + part.start, 3),
            words=tuple(map(later, segment.words)),
            no_speech=part.no_speech,
        )
        for segment in transcript.segments
        if segment.text
    ]
    return replace(transcript, segments=tuple(segments))


def merged(
    before: Transcript | None, after: Transcript | None, part: Part
) -> tuple[Transcript | None, Transcript | None]:
    """The transcripts of a part, and of the one before whose end it repeats, with each word once.

    Both have their words, see :func:`mome.text.words.merged`. A segment's mean probability stays that of its part.
    """
    if before is None or after is None or not before.segments or not after.segments:
        return before, after
    (first,), (second,) = before.segments, after.segments
    middle = part.start + part.repeats / 2
    kept, more = merged_words(first.words, second.words, part.start, part.start + part.repeats)
    seam = round(max([middle, *(word.end for word in kept[-1:])]), 3)
    more = tuple(replace(word, start=max(word.start, seam), end=max(word.end, seam)) for word in more)
    return (
        replace(before, segments=_segments(replace(first, end=seam), kept)),
        replace(after, segments=_segments(replace(second, start=seam, end=max(second.end, seam)), more)),
    )


def _segments(segment: Segment, words: tuple[Word, ...]) -> tuple[Segment, ...]:
    """The segment with these words, if there are any."""
    return (replace(segment, text=" ".join(word.word for word in words), words=words),) if words else ()


def _told(transcript: Transcript | None, words: bool) -> Transcript | None:
    """The transcript without words that were not asked for."""
    if transcript is None or words:
        return transcript
    plain = (replace(segment, words=(), avg_logprob=None) for segment in transcript.segments)
    return replace(transcript, segments=tuple(plain))


def joined(
    path: str, rates: Rates, of_parts: Sequence[Transcript], seconds: Seconds, notes: Sequence[str]
) -> Transcript:
    """One transcript of a recording from those of its parts.

    Args:
        path: the recording's name.
        rates: the rates that were asked for; recorded unless all parts lack the same modality.
        of_parts: the parts' transcripts in order, see :func:`placed`.
        seconds: the time that reading, encoding and decoding took.
        notes: warnings of the recording.
    """
    used = {each.rates for each in of_parts}
    rates = used.pop() if len(used) == 1 else rates
    segments = tuple(segment for each in of_parts for segment in each.segments)
    counts = [each.tokens for each in of_parts]
    sums = (sum(getattr(each, name) for each in counts) for name in ("audio", "video", "prompt", "fused"))
    warnings = [*notes, *(line for each in of_parts for line in each.warnings)]
    if not segments:
        warnings.append(f"{path or 'the recording'}: {NOTHING_SAID}")
    return Transcript(
        file=path,
        task=rates.task,
        rates=rates,
        text=" ".join(segment.text for segment in segments),
        segments=segments,
        tokens=Tokens(*sums),
        tflops=sum(each.tflops for each in of_parts),
        seconds=seconds,
        warnings=tuple(dict.fromkeys(warnings)),
        encoder_tflops=sum(each.encoder_tflops for each in of_parts),
    )
