"""What breaks which task, on a recogniser that hears if there is sound and reads lips if they move."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mome.analysis import trials
from mome.analysis.noise import make_noise, measure_noise
from mome.clip import Clip
from mome.media.faults import Fault
from mome.rates import Rates, RateSet
from mome.text.transcript import Seconds, Tokens, Transcript
from tests.evaluation.fake import make_rows, sound

ROWS = make_rows({"a": "bin blue", "b": "set red"})


class Store:
    """A second of sound, and a mouth that moves in every frame."""

    read: list[str]

    def __init__(self, folder, audio, video):
        self.modalities, Store.read = (audio, video), []

    def get(self, row):
        mouth = np.repeat(np.arange(25, dtype=np.uint8), 96 * 96).reshape(25, 96, 96)
        return Clip(sound(row.id)[:16_000], mouth, 1.0, row.path)


class Senses:
    """Right if one of the modalities asked for is whole: sound without zeros and noise, lips that move at the end."""

    model = SimpleNamespace(rate_set=RateSet((4,), (2,)))

    def transcribe_batch(self, clips, rates):
        said = {row.path: row.text for row in ROWS}
        return [[self._one(clip, rate, said[clip.path]) for rate in rates] for clip in clips]

    def _one(self, clip, rates, text):
        hears = rates.audio is not None and np.array_equal(clip.audio, sound(clip.path.stem)[:16_000])
        sees = rates.video is not None and clip.mouth[-1, 0, 0] != clip.mouth[-2, 0, 0]
        written = text if hears or sees else ""
        return Transcript("", rates.task, rates, written, (), Tokens(1, 1, 1), 1.0, Seconds(0, 0.1, 0.1))


@pytest.fixture
def document(monkeypatch):
    monkeypatch.setattr(trials, "ClipStore", Store)
    findings, _ = measure_noise(
        {"senses": Senses()},
        ROWS,
        {"senses": [Rates(4, 2), Rates(4, None), Rates(None, 2)]},
        noises={"white": make_noise(["white"], ROWS, 0)["white"]},
        snrs=[0.0],
        faults=[Fault("frozen", 1), Fault("silent", 1), Fault("shifted", 80), Fault("shifted", -80)],
    )
    return findings.document


def test_each_fault_breaks_the_tasks_that_need_what_it_spoils(document):  # lips alone are never out of step
    change = {(row["task"], row["fault"], row["amount"]): row["change"] for row in document["faults"]}
    assert change == {
        ("avsr", "clean", None): None,
        ("asr", "clean", None): None,
        ("vsr", "clean", None): None,
        ("avsr", "frozen", 1): 0,
        ("vsr", "frozen", 1): 1,
        ("avsr", "silent", 1): 0,
        ("asr", "silent", 1): 1,
        ("avsr", "shifted", 80): 0,
        ("avsr", "shifted", -80): 0,
    }
    broken = next(row for row in document["faults"] if row["task"] == "vsr" and row["fault"] == "frozen")
    assert (broken["change_low"], broken["change_high"], broken["clips"]) == (1, 1, 2)


def test_noise_bites_hearing_alone(document):
    noisy = {row["task"]: (row["noise"], row["snr_db"], row["wer"]) for row in document["noise"] if row["snr_db"] == 0}
    assert noisy == {"avsr": ("white", 0, 0), "asr": ("white", 0, 1)}
    assert {row["task"] for row in document["noise"] if row["noise"] == "clean"} == {"avsr", "asr", "vsr"}
