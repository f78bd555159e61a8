from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest

from mome.rates import Rates
from mome.text.transcript import Seconds, Segment, Tokens, Transcript, Word


def test_json_has_the_documented_keys():
    transcript = Transcript(
        file="clip.mp4",
        task="avsr",
        rates=Rates(4, 2),
        text="bin blue",
        segments=(
            Segment(0.5, 1.25, "bin blue", (Word(0.5, 0.75, "bin", 0.5), Word(0.75, 1.25, "blue", 1.0)), -0.25, 0.125),
            Segment(2.0, 2.5, "at"),
        ),
        tokens=Tokens(37, 37, 9),
        tflops=0.5,
        seconds=Seconds(0.1, 0.2, 0.3),
        warnings=("two faces",),
    )
    document = transcript.to_dict()
    assert document == {
        "file": "clip.mp4",
        "task": "avsr",
        "rates": "4,2",
        "text": "bin blue",
        "segments": [
            {
                "start": 0.5,
                "end": 1.25,
                "text": "bin blue",
                "words": [
                    {"start": 0.5, "end": 0.75, "word": "bin", "probability": 0.5},
                    {"start": 0.75, "end": 1.25, "word": "blue", "probability": 1.0},
                ],
                "avg_logprob": -0.25,
                "no_speech": 0.125,
            },
            {"start": 2.0, "end": 2.5, "text": "at", "words": [], "avg_logprob": None, "no_speech": None},
        ],
        "tokens": {"audio": 37, "video": 37, "prompt": 9, "total": 83},
        "tflops": 0.5,
        "seconds": {"media": 0.1, "encode": 0.2, "decode": 0.3},
        "warnings": ["two faces"],
    }
    assert json.loads(json.dumps(document)) == document == transcript.to_json()
    assert list(document["segments"][0])[:3] == ["start", "end", "text"]


def test_a_missing_modality_is_a_dash():
    transcript = Transcript("c", "asr", Rates(4, None), "", (), Tokens(1, 0, 2), 0.0, Seconds(0, 0, 0))
    assert transcript.to_json()["rates"] == "4,-"
    assert transcript.to_json()["warnings"] == []


def test_fused_tokens_are_told_where_there_are_some():
    transcript = Transcript("c", "avsr", Rates(16, 8), "", (), Tokens(0, 0, 6, 9), 0.0, Seconds(0, 0, 0))
    assert transcript.to_json()["tokens"] == {"audio": 0, "video": 0, "fused": 9, "prompt": 6, "total": 15}


@pytest.mark.parametrize(
    "part",
    [
        Word(0.5, 0.75, "bin", 0.5),
        Segment(0.5, 0.75, "bin", (Word(0.5, 0.75, "bin", 0.5),)),
        Tokens(1, 2, 3, 4),
        Seconds(0.1, 0.2, 0.3),
    ],
)
def test_every_part_is_frozen_and_a_dictionary(part):
    document = part.to_dict()
    assert json.loads(json.dumps(document)) == document
    assert {field.name for field in fields(part)} == document.keys() - {"total"}
    with pytest.raises(FrozenInstanceError):
        setattr(part, fields(part)[0].name, 1)
