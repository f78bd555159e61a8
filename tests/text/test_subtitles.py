from __future__ import annotations

import pytest

from mome.text.transcript import Segment, to_srt, to_vtt

SEGMENTS = [Segment(0.0, 1.5, "bin blue"), Segment(3599.9996, 3661.25, "a < b\n\n& c")]


def test_srt():
    assert to_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nbin blue\n\n2\n01:00:00,000 --> 01:01:01,250\na < b & c\n"
    )


def test_vtt():
    assert to_vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nbin blue\n\n01:00:00.000 --> 01:01:01.250\na &lt; b &amp; c\n"
    )


def test_silence_makes_no_cue():
    silence = Segment(0.0, 1.0, " \n")
    assert to_srt([silence]) == ""
    assert to_srt([silence, SEGMENTS[0]]).startswith("1\n")
    assert to_vtt([]) == to_vtt([silence]) == "WEBVTT\n"


@pytest.mark.parametrize(("seconds", "clock"), [(-0.1, "00:00:00,000"), (360000.0, "100:00:00,000")])
def test_times_outside_the_usual_range(seconds, clock):
    assert to_srt([Segment(seconds, seconds, "x")]).splitlines()[1] == f"{clock} --> {clock}"
