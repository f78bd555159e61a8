from __future__ import annotations

import json

import pytest

from mome.rates import Rates
from mome.text.transcript import Seconds, Segment, Tokens, Transcript, to_srt, to_vtt


def test_json_has_the_documented_keys():
    transcript = Transcript(
        file="clip.mp4",
        task="avsr",
        rates=Rates(4, 2),
        text="bin blue",
        segments=(Segment(0.5, 1.25, "bin blue"),),
        tokens=Tokens(37, 37, 9),
        tflops=0.5,
        seconds=Seconds(0.1, 0.2, 0.3),
        warnings=("two faces",),
    )
    document = transcript.to_json()
    assert document == {
        "file": "clip.mp4",
        "task": "avsr",
        "rates": "4,2",
        "text": "bin blue",
        "segments": [{"start": 0.5, "end": 1.25, "text": "bin blue"}],
        "tokens": {"audio": 37, "video": 37, "prompt": 9, "total": 83},
        "tflops": 0.5,
        "seconds": {"media": 0.1, "encode": 0.2, "decode": 0.3},
        "warnings": ["two faces"],
    }
    assert json.loads(json.dumps(document)) == document


def test_a_missing_modality_is_a_dash():
    transcript = Transcript("c", "asr", Rates(4, None), "", (), Tokens(1, 0, 2), 0.0, Seconds(0, 0, 0))
    assert transcript.to_json()["rates"] == "4,-"
    assert transcript.to_json()["warnings"] == []


def test_fused_tokens_are_told_where_there_are_some():
    transcript = Transcript("c", "avsr", Rates(16, 8), "", (), Tokens(0, 0, 6, 9), 0.0, Seconds(0, 0, 0))
    assert transcript.to_json()["tokens"] == {"audio": 0, "video": 0, "fused": 9, "prompt": 6, "total": 15}


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
