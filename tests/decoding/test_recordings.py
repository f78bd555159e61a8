from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mome
from mome import MomeError, Rates, Transcriber
from mome.clip import SAMPLE_RATE, Clip
from mome.decoding import people
from mome.decoding.recordings import NOTHING_SAID, Interrupted, merged
from mome.media import load_clip
from mome.media.face import Face
from mome.media.parts import Part
from mome.media.recording import Recording
from mome.text.transcript import Seconds, Segment, Tokens, Transcript, Word
from tests.media.builders import write

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
TEXT = "bin blue at f two now"
pytestmark = pytest.mark.speech


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return mome.load()


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    sound = load_clip(CLIP, video=False).audio
    assert sound is not None
    return sound


def pause(seconds: float) -> np.ndarray:
    return 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def meeting(sentence, tmp_path_factory) -> Path:
    """Five sentences in half a minute, longer than the model hears at once."""
    sound = np.concatenate([part for seconds in (2.0, 3.0, 1.0, 6.0, 4.0) for part in (sentence, pause(seconds))])
    assert len(sound) > 25 * SAMPLE_RATE
    return write(tmp_path_factory.mktemp("recordings") / "meeting.wav", wave=sound)


def test_a_recording_of_any_length(transcriber, meeting, sentence):
    out = transcriber.transcribe(meeting, "4,-", words=True)
    assert [segment.text for segment in out.segments] == [TEXT] * 5
    assert out.text == " ".join([TEXT] * 5)
    begins = np.cumsum([0, *(len(sentence) / SAMPLE_RATE + pause for pause in (2.0, 3.0, 1.0, 6.0))])
    for segment, begin in zip(out.segments, begins, strict=True):
        assert begin - 0.02 <= segment.start < segment.end <= begin + 3
        assert segment.no_speech < 0.1
        assert segment.avg_logprob > -0.5
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert begin <= times[0]
        assert times[-1] <= segment.end + 1e-3
    assert out.tokens.audio > 5 * 15
    assert (out.file, out.task, str(out.rates)) == (str(meeting), "asr", "4,-")
    assert out.warnings == ()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_batch_changes_nothing(transcriber, meeting, batch):
    out = transcriber.transcribe(meeting, "16,-", batch=batch)
    assert [(s.start, s.text) for s in out.segments] == [
        (s.start, s.text) for s in transcriber.transcribe(meeting, "16,-", batch=3).segments
    ]


def test_segments_come_while_the_rest_is_not_read_yet(transcriber, meeting, monkeypatch):
    read = []
    whole = Recording.sound

    def slow(self):
        for block in whole(self):
            for start in range(0, len(block), 4 * SAMPLE_RATE):
                read.append(start)
                yield block[start : start + 4 * SAMPLE_RATE]

    monkeypatch.setattr(Recording, "sound", slow)
    stream = transcriber.stream(meeting, "4,-")
    assert next(stream).text == TEXT
    first = len(read)
    assert [segment.text for segment in stream] == [TEXT] * 4
    assert first < len(read) / 2


def test_what_is_done_is_kept_when_it_is_interrupted(transcriber, meeting):
    def stop_at(seconds: float):
        def progress(done: float, total: float) -> None:
            if done > seconds:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(Interrupted) as stopped:
        transcriber.transcribe(meeting, "4,-", batch=1, progress=stop_at(10))
    (out,) = stopped.value.transcripts
    assert out.text == " ".join([TEXT] * 3)
    assert out.warnings == (f"{meeting}: interrupted after 12 of 28 s, the rest is missing",)
    assert isinstance(stopped.value, KeyboardInterrupt)


def test_progress_is_told(transcriber, meeting):
    told: list[tuple[float, float]] = []
    transcriber.transcribe(meeting, "16,-", batch=1, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == 5
    assert all(total == pytest.approx(load_clip(meeting).seconds, abs=0.1) for _, total in told)


@pytest.mark.parametrize("kind", ["silence", "tone", "noise"])
@pytest.mark.parametrize("seconds", [2.5, 20.0])
def test_where_nothing_is_said_nothing_is_written(transcriber, tmp_path, kind, seconds):
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = {"silence": pause(seconds), "tone": np.sin(2700 * at) / 4, "noise": 1000 * pause(seconds)}[kind]
    out = transcriber.transcribe(write(tmp_path / "quiet.wav", wave=sound.astype(np.float32)), "4,-", words=True)
    assert (out.text, out.segments, out.tokens.total) == ("", (), 0)
    assert out.warnings == (f"{tmp_path / 'quiet.wav'}: {NOTHING_SAID}",)
    assert out.to_dict()["text"] == ""


def test_a_clip_with_one_sentence_is_read_as_a_whole(transcriber):
    out = transcriber.transcribe(CLIP, "4,2")
    clip = transcriber.load_clip(CLIP, [Rates(4, 2)])
    (alone,) = transcriber.transcribe_rates(clip, [Rates(4, 2)])
    assert (out.text, out.tokens, out.tflops) == (alone.text, alone.tokens, alone.tflops)
    assert [(s.start, s.end) for s in out.segments] == [(0.0, clip.seconds)]


def test_two_sentences_within_the_window_are_two_segments(transcriber, sentence, tmp_path):
    path = write(tmp_path / "two.wav", wave=np.concatenate([sentence, pause(1.0), sentence]))
    assert [segment.text for segment in transcriber.transcribe(path, "4,-").segments] == [TEXT] * 2
    whole = transcriber.transcribe(path, "4,-", vad=False)
    assert len(whole.segments) == 1
    assert whole.segments[0].end == pytest.approx(2 * len(sentence) / SAMPLE_RATE + 1, abs=0.01)
    assert len(transcriber.transcribe(path, "4,-", max_segment=9.0).segments) == 1


def test_a_clip_that_was_cut_already_must_fit(transcriber, meeting):
    with pytest.raises(MomeError, match="longer than the 10 s that can be heard at once"):
        transcriber.transcribe(meeting, "4,-", vad=False)


@pytest.mark.parametrize("length", [0, 0.5, -1, float("nan"), float("inf")])
def test_parts_that_are_not_possible(transcriber, meeting, length):
    with pytest.raises(MomeError, match=r"max_segment=.* is not possible: give at least 1 second"):
        transcriber.transcribe(meeting, "4,-", max_segment=length)


@pytest.mark.parametrize("batch", [0, -1])
def test_batches_that_are_not_possible(transcriber, meeting, batch):
    with pytest.raises(MomeError, match=f"batch={batch} is not possible: give at least 1"):
        transcriber.transcribe(meeting, "4,-", batch=batch)


def test_several_rates_at_once(transcriber, meeting):
    outs = transcriber.transcribe_rates(meeting, [Rates(4, None), Rates(None, 2), Rates(16, 5)])
    assert [str(out.rates) for out in outs] == ["4,-", "16,-"]  # there is no mouth to read
    assert [out.text for out in outs] == [" ".join([TEXT] * 5)] * 2
    assert outs[1].task == "asr"
    with pytest.raises(MomeError, match="no video, so its lips cannot be read"):
        transcriber.transcribe(meeting, "-,2")


def test_what_is_done_to_parts(transcriber, meeting):
    silent = transcriber.transcribe_rates(
        meeting, [Rates(4, None)], alter=lambda clip: replace(clip, audio=0 * clip.audio)
    )
    assert silent[0].text != " ".join([TEXT] * 5)
    assert len(silent[0].segments) <= 5


def test_lips_without_a_pause_have_each_word_once(transcriber, tmp_path, monkeypatch):
    """A reader of lips stands in that knows when each word is said, and misreads those that a part's ends cut."""
    mouth = load_clip(CLIP, audio=False).mouth
    assert mouth is not None
    crops = np.concatenate([mouth[15:50], mouth[15:50][::-1]] * 3)
    for number, crop in enumerate(crops):
        crop[:8, :8] = number  # a clock in the corner
    said = [Word(k * 0.4, k * 0.4 + 0.36, f"word{k}", 0.9) for k in range(len(crops) // 10)]
    asked = []

    def read(clips, rates, media_seconds=0.0, *, words=False, **_):
        asked.append(words)
        rows = []
        for clip in clips:
            start = float(clip.mouth[0, :8, :8].mean()) / 25
            end = start + clip.seconds
            own = [word for word in said if word.end > start and word.start < end]
            own = [replace(w, word="late" if w.start < start else "early" if w.end > end else w.word) for w in own]
            own = [replace(w, start=max(w.start - start, 0), end=min(w.end, end) - start) for w in own]
            segment = Segment(0.0, clip.seconds, " ".join(w.word for w in own), tuple(own) if words else (), -0.1)
            rows.append([Transcript("", "vsr", rates[0], "", (segment,), Tokens(0, 1, 1), 0.0, Seconds(0, 0, 0))])
        return rows

    monkeypatch.setattr(transcriber, "transcribe_batch", read)
    path = write(tmp_path / "lips.mkv", list(crops))
    for batch in (1, 3, 8):
        out = transcriber.transcribe(path, "-,2", max_segment=3.0, batch=batch, words=True)
        assert len(out.segments) > 2
        assert out.text.split() == [word.word for word in said]
        found = [word for segment in out.segments for word in segment.words]
        assert [word.start for word in found] == pytest.approx([word.start for word in said], abs=0.1)
        times = [time for segment in out.segments for time in (segment.start, segment.end)]
        assert times == sorted(times)
    assert all(asked)
    plain = transcriber.transcribe(path, "-,2", max_segment=3.0)
    assert plain.text == out.text
    assert not any(segment.words or segment.avg_logprob for segment in plain.segments)
    assert [s.text for s in transcriber.stream(path, "-,2", max_segment=3.0)] == [s.text for s in out.segments]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a b", "", [(0.0, 3.0, "a b")]),
        ("", "b c", [(2.0, 5.0, "b c")]),
        ("", "", []),
        ("a b", "b c", [(0.0, 2.5, "a b"), (2.5, 5.0, "c")]),
        ("a b", "x c", [(0.0, 2.5, "a b"), (2.5, 5.0, "c")]),
    ],
)
def test_parts_that_repeat_the_end_of_the_one_before(before, after, found):
    """Of words of 0.4 s, the second of a part from 0 to 3 s and the first of one from 2 to 5 s are from 2 to 2.4 s."""

    def part(text: str, start: float, second: float) -> Transcript:
        words = tuple(Word(at, at + 0.4, w, 0.5) for w, at in zip(text.split(), (start, second), strict=False))
        segments = (Segment(2 * (start == 2), 3 + 2 * (start == 2), text, words),) if text else ()
        return Transcript("", "vsr", Rates(None, 2), text, segments, Tokens(0, 1, 1), 0.0, Seconds(0, 0, 0))

    own = Part(2.0, Clip(None, np.zeros((75, 96, 96), np.uint8), 3.0), repeats=1.0)
    both = merged(part(before, 1.0, 2.0), part(after, 2.0, 4.0), own)
    assert [(s.start, s.end, s.text) for each in both if each is not None for s in each.segments] == found
    assert merged(None, both[1], own) == (None, both[1])


def test_a_stream_takes_what_transcribe_takes():
    options = {name: inspect.signature(getattr(Transcriber, name)).parameters for name in ("stream", "transcribe")}
    assert set(options["transcribe"]) - set(options["stream"]) == {"progress"}
    for name, option in options["stream"].items():
        if name != "batch":
            assert option == options["transcribe"][name]


def test_a_stream_of_a_ready_cut_clip(transcriber, meeting):
    assert [segment.text for segment in transcriber.stream(CLIP, "4,-", vad=False)] == [TEXT]
    with pytest.raises(MomeError, match="longer than the 10 s that can be heard at once"):
        list(transcriber.stream(meeting, "4,-", vad=False))
    with pytest.raises(MomeError, match=r"face='up' is not possible"):
        list(transcriber.stream(meeting, "4,-", face="up"))


def test_whose_lips_are_read(transcriber, tmp_path):
    """One face speaks on the left and then another on the right, which the detector stands for."""
    mouth = load_clip(CLIP, audio=False).mouth
    assert mouth is not None
    still = np.repeat(mouth[-1:], len(mouth), axis=0)
    left, right = np.concatenate([mouth, still]), np.concatenate([still, mouth])
    scenes = [np.full((144, 320), 90, np.uint8) for _ in left]
    for scene, one, other in zip(scenes, left, right, strict=True):
        scene[24:120, 24:120], scene[24:120, 200:296] = one, other
    path = write(tmp_path / "two.mkv", scenes)

    def found(picture: np.ndarray, scale: float = 1.0) -> list[Face]:
        points = np.array([[30, 10], [66, 10], [48, 30], [33, 48], [63, 48]], float)
        faces = []
        for place in (24, 200):
            box = np.array([place, 24, 96, 96], float)
            grey = picture[24:120, place : place + 96].mean(axis=2).astype(np.uint8)
            faces.append(Face(box, points + box[:2], np.ascontiguousarray(grey[33:63, 33:63])))
        return faces

    before, transcriber.detector = transcriber.detector, found
    try:
        persons = people(path, found)
        assert len(persons) == 2
        spans = []
        for face in ("left", "right", *persons):
            segments = transcriber.transcribe(path, "-,2", face=face).segments
            spans.append([(segment.start, segment.end) for segment in segments])
        nobody = transcriber.transcribe(path, "-,2", face=7)
        somebody = transcriber.transcribe(path, "-,2", face=persons[0])
    finally:
        transcriber.detector = before
    assert nobody.text == ""
    assert any("no face 7 is seen" in note for note in nobody.warnings)
    assert not any("no face" in note for note in somebody.warnings)
    half = len(mouth) / 25
    for first, second in (spans[:2], spans[2:]):
        assert first
        assert second
        assert all(end < half + 0.6 for _, end in first)
        assert all(start > half - 0.6 for start, _ in second)
