from __future__ import annotations

import numpy as np
import pytest

from mome import MomeProcessor, Transcriber
from mome.errors import MomeError
from mome.evaluation.evaluate import Evaluation, evaluate
from mome.evaluation.result import Condition, Failure, make_conditions
from mome.media.face import DETECTOR_VARIABLE
from mome.media.noise import snr_db
from mome.rates import Rates
from mome.text.wer import WordErrors, bootstrap_interval
from tests.evaluation.fake import FakeMedia, FakeTranscriber, make_rows, sound
from tests.model.build import make_model
from tests.text.test_wer import distance
from tests.tiny import tiny_tokenizer

AV, ASR, VSR = Rates(4, 2), Rates(4, None), Rates(None, 2)
NOISE = np.random.default_rng(9).standard_normal(100_000).astype(np.float32)
ROWS = make_rows({"a": "bin blue at", "b": "Lay red", "c": "set green by f", "d": "place white"})


@pytest.fixture
def media(monkeypatch):
    def use(**options) -> FakeMedia:
        fake = FakeMedia(**options)
        monkeypatch.setattr(FakeTranscriber, "media", fake, raising=False)
        return fake

    return use


def test_conditions():
    assert make_conditions([AV, VSR], [None, 0.0]) == [
        Condition(AV, None),
        Condition(AV, 0.0),
        Condition(VSR, None),
        Condition(VSR, 0.0),
    ]
    assert make_conditions([VSR, ASR, VSR], [0.0, 0.0]) == [Condition(VSR, 0.0), Condition(ASR, 0.0)]
    assert Condition(VSR).task == "vsr"


def test_figures_of_one_condition(media):
    media()
    texts = {"a": "bin blue at", "b": "lay RED now", "c": "", "d": "place black"}
    fake = FakeTranscriber({(name, "4,2"): text for name, text in texts.items()})
    (result,) = evaluate(fake, ROWS, [Condition(AV)], seed=3)
    assert result.errors == WordErrors(substitutions=1, deletions=4, insertions=1, hits=6)
    assert result.to_json() == {
        "task": "avsr",
        "rates": "4,2",
        "snr_db": None,
        "wer": 6 / 11,
        "words": 11,
        "clips": 4,
        "ci95": list(bootstrap_interval([0, 1, 4, 1], [3, 2, 4, 2], seed=3)),
        "tokens_mean": 16.0,
        "tflops_mean": 2.0,
        "rtf": 0.375,
        "substitutions": 1,
        "deletions": 4,
        "insertions": 1,
        "failures": [],
    }


def test_pooled_rate_against_a_slow_reference(media):
    media()
    rng = np.random.default_rng(4)

    def draw() -> dict[str, str]:
        return {f"clip{i}": " ".join(rng.choice(list("abcd"), rng.integers(1, 9))) for i in range(30)}

    references, conditions = draw(), make_conditions([AV, ASR])
    spoken = {rates: draw() for rates in (AV, ASR)}
    fake = FakeTranscriber({(n, str(r)): text for r, texts in spoken.items() for n, text in texts.items()})
    results = evaluate(fake, make_rows(references), conditions, batch_size=7)
    for result, rates in zip(results, (AV, ASR), strict=True):
        wrong = sum(distance(references[n].split(), spoken[rates][n].split()) for n in references)
        words = sum(len(text.split()) for text in references.values())
        assert result.errors.words == words
        assert result.wer == wrong / words


def test_files_are_read_once_and_encoded_once_per_level(media):
    files, fake, reports = media(), FakeTranscriber({}), []
    conditions = make_conditions([AV, ASR, VSR, Rates(16, 5)], [None, 0.0, 5.0])
    results = evaluate(
        fake,
        ROWS,
        conditions,
        noise=NOISE,
        batch_size=3,
        progress=lambda done, total: reports.append((done, total)),
        num_beams=2,
    )
    assert [result.condition for result in results] == conditions
    assert [name for name, _, _ in files.loaded] == ["a", "b", "c", "d"]
    assert [(len(clips), rates) for clips, rates, _ in fake.calls] == [
        (size, rates) for size in (3, 1) for rates in [[AV, ASR, VSR, Rates(16, 5)]] * 3
    ]
    assert all(options == {"num_beams": 2} for _, _, options in fake.calls)
    assert reports == [(3, 4), (4, 4)]


@pytest.mark.parametrize(("rates", "streams"), [(ASR, (True, False)), (VSR, (False, True)), (AV, (True, True))])
def test_only_what_is_needed_is_read(media, rates, streams):
    files = media()
    evaluate(FakeTranscriber({}), ROWS[:1], [Condition(rates)])
    assert files.loaded == [("a", *streams)]


@pytest.mark.parametrize("level", [-7.5, 0.0, 10.0])
def test_the_noise_has_the_ratio_asked_for(media, level):
    media()
    fake = FakeTranscriber({})
    evaluate(fake, ROWS, [Condition(AV, level)], noise=NOISE)
    for row, clip in zip(ROWS, fake.calls[0][0], strict=True):
        clean = sound(row.id)
        assert snr_db(clean, clip.audio - clean) == pytest.approx(level, abs=0.01)


def test_without_a_level_the_sound_is_untouched(media):
    media()
    fake = FakeTranscriber({})
    evaluate(fake, ROWS, [Condition(AV)], noise=NOISE)
    for row, clip in zip(ROWS, fake.calls[0][0], strict=True):
        np.testing.assert_array_equal(clip.audio, sound(row.id))


def test_noise_depends_on_seed_and_clip_alone(media):
    media()

    def noisy(rows, seed, level=0.0, batch_size=8) -> dict[str, np.ndarray]:
        fake = FakeTranscriber({})
        evaluate(fake, rows, [Condition(AV, level)], noise=NOISE, seed=seed, batch_size=batch_size)
        return {clip.path.stem: clip.audio for clips, _, _ in fake.calls for clip in clips}

    first, other = noisy(ROWS, 1), noisy(ROWS[:0:-1], 1, batch_size=2)
    for name in other:
        np.testing.assert_array_equal(first[name], other[name])
    assert not np.array_equal(first["a"], noisy(ROWS, 2)["a"])
    # The same stretch at another level, only louder.
    louder = noisy(ROWS, 1, level=-20.0)["a"] - sound("a")
    np.testing.assert_allclose(louder, 10 * (first["a"] - sound("a")), atol=1e-5)


def test_an_unreadable_file_fails_everywhere_and_the_rest_goes_on(media):
    media(broken=("b",))
    fake = FakeTranscriber({("a", "4,2"): "bin blue at"})
    results = evaluate(fake, ROWS, make_conditions([AV, ASR]))
    for result in results:
        assert result.clips == 3
        assert result.errors.words == 9
        assert result.failures == (Failure("b", "media/b.mp4 is damaged"),)


@pytest.mark.parametrize("error", [MomeError("too short\nreally"), RuntimeError("too short")])
def test_a_failure_hits_one_clip_at_one_rate(media, error):
    media()
    texts: dict = {(row.id, str(rates)): row.text for row in ROWS for rates in (AV, ASR)}
    fake = FakeTranscriber({**texts, ("c", "4,2"): error})
    av, asr = evaluate(fake, ROWS, make_conditions([AV, ASR]))
    assert av.failures == (Failure("c", "too short"),)
    assert (av.clips, av.errors.words, av.wer) == (3, 7, 0.0)
    assert (asr.clips, asr.errors.words, asr.wer, asr.failures) == (4, 11, 0.0, ())


@pytest.mark.parametrize("error", [TypeError("option"), KeyError("option"), MemoryError(), ZeroDivisionError("option")])
def test_whatever_one_clip_fails_with_is_its_own_failure(media, error):
    media()
    (result,) = evaluate(FakeTranscriber({("a", "4,2"): error}), ROWS, [Condition(AV)])
    (failure,) = result.failures
    assert failure.id == "a"
    assert failure.error.startswith(type(error).__name__)
    assert result.clips == 3


def test_whatever_reading_a_clip_fails_with_is_its_own_failure(media):
    media()
    fake = FakeTranscriber({})
    load = fake.media

    def odd(path, **streams):
        if path.stem == "b":
            raise NotImplementedError("a format")
        return load(path, **streams)

    fake.media = odd
    (result,) = evaluate(fake, ROWS, [Condition(AV)])
    assert result.failures == (Failure("b", "a format"),)
    assert result.clips == 3


def test_what_is_done_remains_when_it_is_interrupted(media):
    media()
    texts: dict = {(row.id, str(rates)): row.text for row in ROWS for rates in (AV, ASR)}
    fake = FakeTranscriber({**texts, ("c", "4,-"): KeyboardInterrupt()})
    evaluation = Evaluation(fake, ROWS, make_conditions([AV, ASR]), batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluation.run()
    av, asr = evaluation.results()
    assert (
        [hypothesis.id for hypothesis in av.hypotheses]
        == [hypothesis.id for hypothesis in asr.hypotheses]
        == ["a", "b"]
    )
    assert (av.wer, av.failures) == (0.0, ())


def test_a_clip_in_which_nothing_is_said(media):
    media()
    fake = FakeTranscriber({("a", "4,2"): "one two", ("b", "4,2"): "three"})
    (result,) = evaluate(fake, make_rows({"a": "", "b": "three"}), [Condition(AV)])
    assert result.to_json() | {"wer": 2.0, "words": 1, "clips": 2, "insertions": 2} == result.to_json()
    (silent,) = evaluate(fake, make_rows({"a": ""}), [Condition(AV)])
    assert (silent.wer, silent.ci95, silent.errors.words) == (2.0, (2.0, 2.0), 0)


def test_the_form_in_which_texts_are_compared(media):
    media()
    fake = FakeTranscriber({("a", "4,2"): "It's the colour, um, TWENTY-two."})
    rows = make_rows({"a": "it is the color 22"})
    (lower,) = evaluate(fake, rows, [Condition(AV)])
    (whisper,) = evaluate(fake, rows, [Condition(AV)], normalize="whisper")
    assert (lower.errors.errors, whisper.errors.errors) == (5, 0)
    assert whisper.hypotheses[0].text == "It's the colour, um, TWENTY-two."


def test_a_clip_without_lips_is_not_counted_as_audio_visual(media):
    media(without_mouth=("d",))
    av, asr = evaluate(FakeTranscriber({}), ROWS, make_conditions([AV, ASR]))
    assert av.failures == (Failure("d", "media/d.mp4 has no visible mouth, which avsr needs"),)
    assert (av.clips, asr.clips, asr.failures) == (3, 4, ())


def test_a_face_detector_that_cannot_be_used_is_no_clips_fault(media, monkeypatch, tmp_path):
    media(without_mouth=("d",))
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "none.onnx"))
    with pytest.raises(MomeError, match=r"MOME_FACE_DETECTOR names .*none\.onnx"):
        evaluate(FakeTranscriber({}), ROWS, make_conditions([AV, ASR]))
    (asr,) = evaluate(FakeTranscriber({}), ROWS, [Condition(ASR)])
    assert asr.clips == 4


def test_a_silent_clip_fails_at_its_noise_levels_alone(media):
    media(silent=("a",))
    clean, noisy = evaluate(FakeTranscriber({}), ROWS, make_conditions([AV], [None, 0.0]), noise=NOISE)
    assert clean.failures == ()
    assert [failure.id for failure in noisy.failures] == ["a"]
    assert "media/a.mp4" in noisy.failures[0].error


def test_nothing_transcribed_gives_no_figures(media):
    media(broken=("a", "b", "c", "d"))
    (result,) = evaluate(FakeTranscriber({}), ROWS, [Condition(AV)])
    document = result.to_json()
    assert [document[key] for key in ("wer", "ci95", "tokens_mean", "tflops_mean", "rtf")] == [None] * 5
    assert (document["words"], document["clips"], len(document["failures"])) == (0, 0, 4)


def test_impossible_requests_fail_at_once(media):
    files = media()
    with pytest.raises(MomeError, match="not in this model's rate set"):
        evaluate(FakeTranscriber({}), ROWS, [Condition(Rates(3, 2))])
    with pytest.raises(MomeError, match="0 dB needs a recording of noise"):
        evaluate(FakeTranscriber({}), ROWS, [Condition(AV, 0.0)])
    assert files.loaded == []


def test_rates_that_merging_took_away_fail_at_once(media):
    files, model = media(), make_model("llama", {"type": "lora", "bottleneck": 2, "specific": "tasks"})
    model.merge("avsr")
    transcriber = Transcriber(model, MomeProcessor.for_config(model.config, tiny_tokenizer()))
    with pytest.raises(MomeError, match=r"rates \(4,-\) .* avsr only"):
        evaluate(transcriber, ROWS, [Condition(ASR)])
    assert files.loaded == []
