from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mome
from mome.media import load_clip

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"


def listened(*options: str, sound: np.ndarray) -> subprocess.CompletedProcess[str]:
    data = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    done = subprocess.run([sys.executable, "-m", "mome", "listen", "-", *options], input=data, capture_output=True)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    sentence = load_clip(CLIP, video=False).audio
    assert sentence is not None
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    return np.concatenate([sentence, quiet, sentence])


@pytest.mark.slow
def test_a_pipe(sound):
    done = listened(sound=sound)
    assert (done.returncode, done.stdout) == (0, "bin blue at f two now\nbin blue at f two now\n"), done.stderr
    lines = [json.loads(line) for line in listened("--jsonl", "--rates", "16,-", sound=sound).stdout.splitlines()]
    assert [line["text"] for line in lines if line["final"]] == ["bin blue at f two now"] * 2
    assert all(line["start"] < line["end"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["microphone.wav"], "give - for standard input"),
        (["-", "--rates", "4,2"], "rates of asr"),
        (["-", "--every", "0"], "every=0"),
        (["-", "--max-segment", "0.2"], "max_segment=0.2"),
    ],
)
def test_what_is_not_possible(refused, arguments, part):
    assert part in refused("listen", *arguments)
