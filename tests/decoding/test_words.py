from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mome
from mome import Rates
from mome.clip import Clip
from mome.config import MomeConfig
from mome.decoding import words
from mome.decoding.words import even_times
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition, scoring
from mome.model.ctc import CtcHead
from mome.text.transcript import Word
from mome.text.words import word_tokens

SHORT = {"max_new_tokens": 6}
ALL_RATES = [Rates.parse(text) for text in ("4,2", "16,5", "4,-", "16,-", "-,2", "-,5")]


@pytest.fixture(scope="module")
def transcriber(tiny_model):
    return mome.load(tiny_model)


def clip(frames: int, seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    sound = (0.1 * rng.standard_normal(640 * frames)).astype(np.float32)
    return Clip(sound, rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8), frames / 25, None, ())


def test_words_are_those_of_the_text_in_order_inside_the_clip(transcriber):
    one = clip(30, 0)
    for out in transcriber.transcribe_rates(one, ALL_RATES, words=True, **SHORT):
        (segment,) = out.segments
        assert segment.text == out.text
        assert [word.word for word in segment.words] == out.text.split()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= one.seconds
        assert all(0 < word.probability <= 1 for word in segment.words)
        assert segment.avg_logprob < 0
        assert segment.no_speech is None


def test_words_are_not_there_unless_asked_for_and_change_nothing_else(transcriber):
    out, timed = (transcriber.transcribe(clip(30, 0), "4,2", words=words, **SHORT) for words in (False, True))
    (plain,), (full,) = out.segments, timed.segments
    assert (plain.words, plain.avg_logprob) == ((), None)
    assert replace(full, words=(), avg_logprob=None) == plain
    assert (timed.text, timed.tokens, timed.tflops, timed.warnings) == (out.text, out.tokens, out.tflops, out.warnings)


def test_times_are_those_of_the_finest_rates(transcriber, monkeypatch):
    read = []

    def spy(model, prepared, *arguments):
        read.append(str(prepared.rates[0]))
        return scoring.score(model, prepared, *arguments)

    monkeypatch.setattr(words, "score", spy)
    for rates in ("4,2", "16,5", "16,-", "-,5"):
        transcriber.transcribe(clip(30, 0), rates, words=True, **SHORT)
    assert read == ["4,2", "4,2", "16,5", "4,-", "16,-", "-,2", "-,5"]
    read.clear()
    monkeypatch.setattr(words, "check_room", lambda *_: (_ for _ in ()).throw(MomeError("too long")))
    (segment,) = transcriber.transcribe(clip(30, 0), "16,5", words=True, **SHORT).segments
    assert read == ["16,5"]
    assert [word.word for word in segment.words] == segment.text.split()


@contextmanager
def headed(model: MomeForSpeechRecognition, head: CtcHead) -> Iterator[None]:
    """A model with a CTC head for the time of the block."""
    model.ctc = head
    try:
        yield
    finally:
        del model.ctc
        model.ctc = None


@pytest.mark.parametrize(("dtype", "new_tokens"), [("float32", 1), ("float32", 6), ("bfloat16", 6)])
def test_a_batch_of_which_a_head_hears_some_clips(tiny_model, dtype, new_tokens):
    """A clip without sound, and one that is shorter than a frame of the head, too."""
    torch.manual_seed(0)
    transcriber = mome.load(tiny_model, dtype=dtype)
    config = MomeConfig.from_dict(transcriber.model.config.to_dict())
    config.ctc = {"tokens": 12, "audio_rate": 16, "projector_hidden": 16}
    clips = [clip(20, 1), replace(clip(40, 2), audio=None), clip(7, 3), clip(31, 3)]
    options = {"words": True, "max_new_tokens": new_tokens, "ctc_weight": 0}
    before = transcriber.transcribe_batch(clips, [Rates(4, 2)], **options)
    with headed(transcriber.model, CtcHead(config).to(transcriber.model.dtype)):
        together = transcriber.transcribe_batch(clips, [Rates(4, 2)], **options)
        alone = [transcriber.transcribe(one, Rates(4, 2), **options) for one in clips]
    for one, (got,), expected, (old,) in zip(clips, together, alone, before, strict=True):
        (a,), (b,), (c,) = got.segments, expected.segments, old.segments
        times = [time for word in a.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert not times or 0 <= times[0] <= times[-1] <= one.seconds
        if dtype != "float32":  # rounds otherwise in a batch
            continue
        assert (a.text, [(w.start, w.end) for w in a.words]) == (b.text, [(w.start, w.end) for w in b.words])
        assert a.text == c.text
        if one.audio is None:
            assert a.words == c.words


@pytest.mark.parametrize("rates", ["4,2", "16,5", "-,5"])
def test_times_are_those_of_a_head_that_hears_the_clip(transcriber, monkeypatch, rates):
    """At any rates, and with one pass of the language model. Lips, which it does not hear, have the attention's."""
    model, processor, one = transcriber.model, transcriber.processor, clip(60, 0)
    encoded = model.encode(**processor([one]))
    lengths = [(int(encoded.audio.lengths[0]), int(encoded.video.lengths[0]))]
    ids = processor.labels(["bin blue now"])
    ends = [processor.tokenizer.eos_token_id]
    own = [token for token in ids[0].tolist() if token not in ends]
    config = MomeConfig.from_dict(model.config.to_dict())
    config.ctc = {"tokens": len(set(own)), "audio_rate": 4, "projector_hidden": 16}
    head = CtcHead(config)
    head.alignment.tokens.copy_(torch.tensor(sorted(set(own))))
    frames = torch.full((30, len(set(own)) + 1), -20.0)  # of 4 / 50 s each
    frames[:, -1] = 0
    for place, token in enumerate(own):
        frames[2 + 2 * place, -1] = -5.0
        frames[2 + 2 * place, sorted(set(own)).index(token)] = 0
    monkeypatch.setattr(head, "forward", lambda audio, video, rates, _: [frames if rates[0].audio else None])
    passes = []
    monkeypatch.setattr(words, "score", lambda *given: passes.append(given) or scoring.score(*given))

    def spoken() -> tuple[Word, ...]:
        prepared = model.prepare(encoded, [Rates.parse(rates)])
        return words.spoken_words(model, processor, [one], encoded, prepared, lengths, ids, ends)[0].words

    without, passes[:] = spoken(), []
    with headed(model, head):
        found = spoken()
    if rates == "-,5":
        assert found == without
        return
    assert len(passes) == 1
    groups = word_tokens(own, processor.tokenizer.decode)
    assert [word.word for word in found] == [text for text, _ in groups] == ["bin", "blue", "now"]
    for number, (word, (_, tokens)) in enumerate(zip(found, groups, strict=True)):
        first, last = 2 + 2 * tokens[0], 3 + 2 * tokens[-1]
        assert word.start == pytest.approx(0.08 * (first - (0.5 if number else 1)), abs=0.05)
        assert word.end == pytest.approx(0.08 * (last + (2 if number == 2 else 0.5)), abs=0.05)
    assert [word.probability for word in found] == pytest.approx([word.probability for word in without], rel=1e-3)


def test_coarse_rates_have_the_times_of_fine_ones():
    tiny = mome.load()
    demo = tiny.load_clip(Path(mome.__file__).parent / "demo" / "clip.mp4", ALL_RATES)
    fine, coarse = (tiny.transcribe(demo, rates, words=True).segments[0] for rates in ("4,-", "16,-"))
    assert fine.text == coarse.text
    assert [(word.start, word.end) for word in fine.words] == [(word.start, word.end) for word in coarse.words]
    assert fine.avg_logprob != coarse.avg_logprob


@pytest.mark.parametrize("beams", [1, 3])
def test_words_of_a_batch_are_those_of_its_clips_one_by_one(transcriber, beams):
    clips = [clip(20, 1), replace(clip(40, 2), audio=None), clip(31, 3)]
    options = {"words": True, "num_beams": beams, **SHORT}
    for one, row in zip(
        clips, transcriber.transcribe_batch(clips, [Rates(4, 2), Rates(16, 5)], **options), strict=True
    ):
        alone = transcriber.transcribe_rates(one, [Rates(4, 2), Rates(16, 5)], **options)
        for got, expected in zip(row, alone, strict=True):
            (a,), (b,) = got.segments, expected.segments
            assert [(w.word, w.start, w.end) for w in a.words] == [(w.word, w.start, w.end) for w in b.words]
            assert [w.probability for w in a.words] == pytest.approx([w.probability for w in b.words], rel=1e-3)
            assert a.avg_logprob == pytest.approx(b.avg_logprob, rel=1e-3)


def test_probabilities_are_of_the_raw_scores(transcriber):
    out = transcriber.transcribe(clip(30, 0), "4,2", words=True, **SHORT)
    prepared = transcriber.processor([clip(30, 0)])
    ids = transcriber.processor.labels([out.text])
    logits = transcriber.model(**prepared, labels=ids, rates=Rates(4, 2)).logits.log_softmax(-1)
    expected = logits[0].gather(1, ids[0][:, None])[: len(out.text.split()), 0]
    assert [word.probability for word in out.segments[0].words] == pytest.approx(expected.exp().tolist(), rel=1e-3)


def test_without_attention_to_record_each_character_takes_the_same_time(transcriber, monkeypatch):
    class Nothing(scoring._Recorder):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(scoring, "_Recorder", Nothing)
    out = transcriber.transcribe(clip(30, 0), "4,2", words=True, **SHORT)
    (segment,) = out.segments
    each = 1.2 / len("".join(out.text.split()))
    assert segment.words[-1].end == pytest.approx(1.2)
    assert [w.end - w.start for w in segment.words] == pytest.approx(
        [each * len(w.word) for w in segment.words], abs=2e-3
    )
    assert even_times(["a", "bbb"], 2.0) == [(0.0, 0.5), (0.5, 2.0)]
    assert even_times([], 2.0) == []


def test_an_empty_transcript_has_no_words(transcriber, monkeypatch):
    monkeypatch.setattr(type(transcriber.model), "generate", lambda *_, **__: torch.tensor([[2]]))
    (segment,) = transcriber.transcribe(clip(30, 0), "4,2", words=True, eos_token_id=2).segments
    assert (segment.text, segment.words) == ("", ())
    assert segment.avg_logprob < 0
