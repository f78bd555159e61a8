"""Turns and batches, without processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome import Rates
from mome.clip import Clip
from mome.media.parts import Part
from mome.serving.line import Job, Line, needs_words
from mome.serving.reading import End, Read
from mome.serving.request import Options, Refusal
from mome.text.transcript import Seconds, Segment, Tokens, Transcript, Word


def job(*lengths: float, beams: int | None = None) -> Job:
    made = Job(Path("x"), Options((Rates(4, None),), beams))
    made.parts.extend(Part(10.0 * k, Clip(np.zeros(1, np.float32), None, length)) for k, length in enumerate(lengths))
    made.given = len(lengths)
    return made


def line(*jobs: Job, most: int = 4) -> Line:
    made = Line(most)
    for each in jobs:
        made.add(each)
    return made


def turns(found: list[tuple[Job, Part]], *jobs: Job) -> list[int]:
    return [jobs.index(each) for each, _ in found]


def test_all_have_a_turn_before_anybody_has_two():
    long, short, other = job(*[3.0] * 9), job(3.0), job(3.0)
    made = line(long, short, other)
    assert turns(made.batch(), long, short, other) == [0, 1, 2, 0]
    late = job(3.0)
    made.add(late)
    assert turns(made.batch(), long, short, other, late) == [0, 3, 0, 0]
    assert turns(made.batch(), long) == [0, 0, 0, 0]  # nobody else waits
    assert turns(made.batch(), long) == []


def test_who_had_a_turn_goes_to_the_end():
    long, second, third = job(*[3.0] * 9), job(3.0, 3.0), job(3.0, 3.0)
    made = line(long, second, third, most=2)
    assert turns(made.batch(), long, second, third) == [0, 1]
    assert turns(made.batch(), long, second, third) == [2, 0]
    assert turns(made.batch(), long, second, third) == [1, 2]


def test_parts_of_a_recording_stay_in_order():
    mixed = job(3.0, 9.0, 3.0)
    made = line(mixed)
    starts = [[part.start for _, part in made.batch()] for _ in range(3)]
    assert starts == [[0.0], [10.0], [20.0]]  # lengths too different to be padded to each other


def test_only_what_is_decoded_alike_is_together():
    plain, beams, again = job(3.0), job(3.0, 3.0, beams=2), job(3.0)
    made = line(plain, beams, again)
    assert turns(made.batch(), plain, beams, again) == [0, 2]
    assert turns(made.batch(), plain, beams, again) == [1, 1]


def test_beams_take_room():
    wide = job(*[3.0] * 5, beams=2)
    assert len(line(wide).batch()) == 2
    assert len(line(job(3.0, 3.0, beams=9)).batch()) == 1


def test_reading_goes_round_and_memory_is_bounded():
    first, second = job(), job()
    made = line(first, second, most=2)
    reader: Any = object()
    assert made.to_read(reader) is first
    first.reading = True
    assert made.to_read(reader) is second
    first.reading, first.reader = False, reader
    assert made.to_read(reader) is first
    assert made.to_read(object()) is second  # another process has the first open
    first.parts.extend(job(3.0).parts)
    assert made.to_read(reader) is second
    second.parts.extend(job(3.0, 3.0, 3.0).parts)
    assert made.to_read(reader) is None


def transcript(text: str) -> Transcript:
    segments = (Segment(0.0, 3.0, text),)
    return Transcript("", "asr", Rates(4, None), text, segments, Tokens(9, 0, 1), 0.5, Seconds(0, 1.0, 2.0), ("w",))


async def heard(made: Job) -> list[str]:
    return [each.text async for each in made]


def test_a_recordings_transcript():
    made = job(3.0, 3.0)
    made.begin(Rates(4, None))
    (_, first), (_, second) = line(made).batch()
    made.deliver(transcript("one"), first)
    made.end = End(True, False, 13.0, ("note",))
    assert not made.is_over
    made.deliver(transcript("two"), second)
    assert made.is_over
    assert asyncio.run(heard(made)) == ["one", "two"]
    whole = made.transcript()
    assert (whole.text, str(whole.rates), whole.tokens.audio, whole.tflops) == ("one two", "4,-", 18, 1.0)
    assert [segment.start for segment in whole.segments] == [0.0, 10.0]
    assert (whole.seconds.encode, whole.seconds.decode) == (2.0, 4.0)
    assert whole.warnings == ("note", "w")


def spoken(**starts: float) -> Transcript:
    """Words of 0.4 s in a part of 3 s."""
    words = tuple(Word(start, start + 0.4, word, 0.9) for word, start in starts.items())
    return replace(transcript(" ".join(starts)), segments=(Segment(0.0, 3.0, " ".join(starts), words, -0.1),))


@pytest.mark.parametrize("words", [False, True])
def test_parts_that_overlap_have_each_word_once(words):
    """From 0 to 3 s, from 2 to 5 s and from 6 to 9 s; "two" is said at 2.1 s, in both of the first."""
    made = Job(Path("x"), Options((Rates(4, None),), words=words))
    clip = Clip(np.zeros(1, np.float32), None, 3.0)
    first, second, third = Part(0.0, clip, continued=True), Part(2.0, clip, repeats=1.0), Part(6.0, clip)
    made.take(Read([first, second, third], None, 0.0))
    made.begin(Rates(4, None))
    queue = line(made, job(3.0))
    batches = []
    while batch := queue.batch():
        batches.append([(part.start, needs_words(own, part)) for own, part in batch])
    if words:
        assert batches == [[(0.0, True), (2.0, True), (6.0, True)], [(0.0, False)]]
    else:  # the model tells the words of the parts that overlap alone
        assert batches == [[(0.0, True), (2.0, True)], [(0.0, False), (6.0, False)]]
    made.deliver(spoken(one=1.0, two=2.1), first)
    assert made.done == []  # until it is known what the next part says there
    made.deliver(spoken(two=0.1, three=1.5), second)
    assert [each.segments[0].text for each in made.done] == ["one two", "three"]
    made.deliver(spoken(four=1.0) if words else transcript("four"), third)
    made.take(Read([], End(True, False, 9.0, ()), 0.0))
    assert made.is_over
    assert len(asyncio.run(heard(made))) == 3
    whole = made.transcript()
    assert whole.text == "one two three four"
    assert [(segment.start, segment.end) for segment in whole.segments] == [(0.0, 2.5), (2.5, 5.0), (6.0, 9.0)]
    told = [(word.word, word.start) for segment in whole.segments for word in segment.words]
    assert told == ([("one", 1.0), ("two", 2.1), ("three", 3.5), ("four", 7.0)] if words else [])
    assert [segment.avg_logprob for segment in whole.segments] == [-0.1 if words else None] * 3


def test_a_failure_ends_it_once():
    made = job(3.0)
    made.fail(Refusal(400, "first", "a"))
    made.fail(Refusal(503, "second", "b"))
    assert not made.parts
    with pytest.raises(Refusal, match="first"):
        asyncio.run(heard(made))


def test_a_job_that_is_alone_has_batches_of_its_own():
    others, alone = [job(3.0), job(3.0)], job(3.0, 3.0)
    alone.options = replace(alone.options, alone=True)
    made = line(others[0], alone, others[1])
    assert turns(made.batch(), *others, alone) == [0, 1]
    assert turns(made.batch(), *others, alone) == [2, 2]


def test_what_is_read_of_a_job_is_heard_by_others():
    first, second = Job(Path("x"), Options((Rates(4, 2),))), Job(Path("x"), Options((Rates(16, 5),)))
    first.listeners.append(second.take)
    part = Part(0.0, Clip(np.zeros(1, np.float32), None, 1.0))
    first.take(Read([part], None, 0.5))
    end = End(True, False, 1.0, ())
    first.take(Read([], end, 0.25))
    assert list(second.parts) == list(first.parts) == [part]
    assert (second.end, second.read_seconds, second.given) == (end, 0.75, 1)
    assert not second.is_over  # its own part is to be transcribed
