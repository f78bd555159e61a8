from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.text.subtitles import cues, to_srt, to_tsv, to_vtt
from mome.text.transcript import Segment, Word

SEGMENTS = [Segment(0.0, 1.5, "bin blue"), Segment(3599.9996, 3606.25, "a < b\n\n& c")]


def said(text: str, *times: float, end: float | None = None) -> Segment:
    """A segment of words that last 0.2 s each from the given times."""
    words = [Word(at, at + 0.2, word, 0.9) for at, word in zip(times, text.split(), strict=True)]
    return Segment(times[0], words[-1].end if end is None else end, text, tuple(words))


def shown(segments: list[Segment]) -> list[tuple[float, float, str]]:
    return [(pytest.approx(cue.start), pytest.approx(cue.end), "|".join(cue.lines)) for cue in cues(segments)]


def test_srt():
    assert to_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nbin blue\n\n2\n01:00:00,000 --> 01:00:06,250\na < b & c\n"
    )


def test_vtt():
    assert to_vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nbin blue\n\n01:00:00.000 --> 01:00:06.250\na &lt; b &amp; c\n"
    )


def test_tsv():
    assert to_tsv(SEGMENTS) == "start\tend\ttext\n0\t1500\tbin blue\n3600000\t3606250\ta < b & c\n"


def test_silence_makes_no_cue():
    silence = Segment(0.0, 1.0, " \n")
    assert to_srt([silence]) == ""
    assert to_srt([silence, SEGMENTS[0]]).startswith("1\n")
    assert to_vtt([]) == to_vtt([silence]) == "WEBVTT\n"
    assert to_tsv([silence]) == "start\tend\ttext\n"


@pytest.mark.parametrize(("seconds", "clock"), [(-0.1, "00:00:00,000"), (360000.0, "100:00:00,000")])
def test_times_outside_the_usual_range(seconds, clock):
    assert to_srt([Segment(seconds, seconds, "x")]).splitlines()[1] == f"{clock} --> {clock}"


def test_a_cue_ends_at_a_pause():
    assert shown([said("bin blue at two now", 0.5, 0.7, 0.9, 2.2, 2.4)]) == [
        (0.5, 1.5, "bin blue at"),  # 0.4 s longer than it is said, to be read
        (2.2, 2.6, "two now"),  # nothing is known to come after the segment
    ]


def test_a_cue_stays_until_it_is_read_but_not_over_the_next_one():
    assert shown([said("yes", 1.0, end=3.0)]) == [(1.0, 2.0, "yes")]
    assert shown([said("yes", 1.0), said("no", 1.4, end=9.0)]) == [(1.0, 1.4, "yes"), (1.4, 2.4, "no")]
    long = "thirty four letters are in this line"
    assert shown([Segment(0.0, 0.5, long), Segment(9.0, 9.0, "x")])[0] == (0.0, 36 / 17, long)


def test_lines_and_cues_are_even():
    words = ["abcdefghi"] * 12  # 119 characters with the spaces between: two cues, of two lines each
    even = "|".join(["abcdefghi abcdefghi abcdefghi"] * 2)
    assert [text for *_, text in shown([Segment(0.0, 12.0, " ".join(words))])] == [even, even]
    times = [0.5 * number for number in range(12)]
    assert [text for *_, text in shown([said(" ".join(words), *times)])] == [even, even]


def test_a_short_pause_is_preferred_as_the_end_of_a_cue():
    times = [0.3 * number + (0.9 if number >= 5 else 0) for number in range(12)]
    first, second = [text.replace("|", " ").split() for *_, text in shown([said("abcdefghi " * 12, *times)])]
    assert (len(first), len(second)) == (5, 7)


def test_without_words_time_is_shared_out_by_characters():
    assert shown([Segment(10.0, 20.0, "abcde abcde abcde fghij")]) == [
        (10.0, 15.0, "abcde abcde"),
        (15.0, 20.0, "abcde fghij"),
    ]
    assert shown([Segment(0.0, 30.0, "never again")]) == [(0.0, 7.0, "never"), (15.0, 22.0, "again")]


def test_a_word_longer_than_a_line_is_broken():
    (cue,) = cues([Segment(0.0, 5.0, "x" * 50)])
    assert cue.lines == ("x" * 42, "x" * 8)


HOSTILE = "1\n\n00:00:01,000 --> 00:00:02,000 <b>a</b> {\\an8} &amp; \r\n\u2028NOTE\t--> b\x0b\x85WEBVTT"


def test_text_cannot_break_a_format():
    segments = [Segment(0.0, 6.0, HOSTILE), Segment(6.0, 7.0, "end")]
    srt, vtt, tsv = to_srt(segments), to_vtt(segments), to_tsv(segments)
    count = len(cues(segments))
    assert srt.count("-->") == vtt.count("-->") == count
    assert len(re.findall(r"^\d+$", srt, re.M)) >= count
    assert [block.splitlines()[0] for block in srt.split("\n\n")] == [str(n) for n in range(1, count + 1)]
    assert all(line.count("\t") == 2 for line in tsv.splitlines())
    assert len(tsv.splitlines()) == count + 1
    assert not re.search(r"<\w|</|\{\\", srt)
    assert "<" not in vtt
    assert "&amp;amp;" in vtt
    for text in (srt, vtt):
        assert len(text.split("\n\n")) == count + (text is vtt)
    assert srt.replace("\u2060", "").split("\n")[2:4] == list(cues(segments)[0].lines)


times = st.floats(-1, 60, allow_nan=False, width=32)
texts = st.text("ab<>&-\n\t é漢", max_size=12) | st.text("x", min_size=40, max_size=130)
spoken = st.builds(lambda start, length, text: Word(start, start + length, text, 0.5), times, st.floats(0, 9), texts)
parts = st.builds(
    lambda start, length, text, words: Segment(start, start + length, text, tuple(words)),
    times,
    st.floats(0, 30),
    texts,
    st.lists(spoken, max_size=12),
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(parts, max_size=3))
def test_cues_of_any_words_keep_the_limits_the_order_and_all_that_is_said(segments):
    found = cues(segments)
    for cue in found:
        assert 0 <= cue.start <= cue.end <= cue.start + 7 + 1e-9
        assert 1 <= len(cue.lines) <= 2
        assert all(line and len(line) <= 42 and line == " ".join(line.split()) for line in cue.lines)
    assert all(before.end <= after.start for before, after in pairwise(found))
    letters = ["".join(w.word for w in s.words) if s.words else s.text for s in segments]
    assert "".join("".join(cue.lines) for cue in found).replace(" ", "") == "".join("".join(letters).split())


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.tuples(st.floats(0.02, 2.0), st.floats(0.02, 1.0)), min_size=1, max_size=25))
def test_a_cue_is_short_only_where_the_next_word_follows(spans):
    now, words = 0.0, []
    for pause, length in spans:
        words.append(Word(now + pause, now + pause + length, "word", 1.0))
        now = words[-1].end
    found = cues([Segment(0.0, now + 9.0, "", tuple(words))])
    for cue, after in zip(found, [*found[1:], None], strict=True):
        assert cue.end - cue.start >= 1 - 1e-9 or (after is not None and cue.end == after.start)
    starts = {word.start for word in words}
    assert all(cue.start in starts for cue in found)
