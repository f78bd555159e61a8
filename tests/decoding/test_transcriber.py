from __future__ import annotations

import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import mome
from mome import MomeError, Rates, Transcriber
from mome.checkpoints import bundled
from mome.media import Clip
from mome.model.cost import inference_cost
from tests.media.builders import write
from tests.media.server import Handler

SHORT = {"max_new_tokens": 4}
ALL_RATES = [Rates.parse(text) for text in ("4,2", "16,5", "16,2", "4,-", "16,-", "-,2", "-,5")]


@pytest.fixture(scope="module")
def transcriber(tiny_model) -> Transcriber:
    return mome.load(tiny_model)


def clip(samples: int | None = 16000, frames: int | None = 25, seed: int = 0, name: str | None = None) -> Clip:
    rng = np.random.default_rng(seed)
    audio = None if samples is None else (0.1 * rng.standard_normal(samples)).astype(np.float32)
    mouth = None if frames is None else rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8)
    seconds = max((samples or 0) / 16000, (frames or 0) / 25)
    return Clip(audio, mouth, seconds, Path(name) if name else None, ("beware",) if name else ())


def test_a_transcript(transcriber):
    out = transcriber.transcribe(clip(17999, 28, name="talk.mp4"), "4,5", **SHORT)
    config = transcriber.model.config
    prompt = len(config.start_ids) + len(config.prompt_ids["avsr"])
    assert (out.tokens.audio, out.tokens.video, out.tokens.prompt) == (17999 // 320 // 4, 28 // 5, prompt)
    assert out.task == "avsr"
    assert [(part.start, part.end, part.text) for part in out.segments] == [(0.0, 17999 / 16000, out.text)]
    assert out.tflops in [inference_cost(config, Rates(4, 5), 56, 28, new_tokens=n).tflops for n in range(1, 5)]
    document = out.to_json()
    assert json.loads(json.dumps(document)) == document
    assert set(document) == {"file", "task", "rates", "text", "segments", "tokens", "tflops", "seconds", "warnings"}
    assert (document["file"], document["rates"], document["warnings"][0]) == ("talk.mp4", "4,5", "beware")
    assert document["tokens"]["total"] == 14 + 5 + prompt
    assert set(document["seconds"]) == {"media", "encode", "decode"}
    assert document["seconds"]["encode"] > 0 < document["seconds"]["decode"]


def test_the_finest_rates_are_the_default(transcriber):
    assert transcriber.transcribe(clip(), **SHORT).rates == Rates(4, 2)
    assert str(transcriber.transcribe(clip(), Rates(16, None), **SHORT).rates) == "16,-"


@pytest.mark.parametrize(("only", "finest"), [(None, "4,2"), ("16,2", "16,2"), ("asr", "4,-"), ("vsr", "-,2")])
def test_the_finest_rates_that_are_left_are_the_default(tiny_model, only, finest):
    transcriber = mome.load(tiny_model)
    transcriber.model.config.only = only
    assert str(transcriber.default_rates) == finest
    with nullcontext() if only is None else pytest.raises(MomeError, match=r"rates \(16,5\) are not in this model"):
        transcriber.transcribe(clip(), "16,5", **SHORT)


def test_text_is_what_the_model_generates(transcriber):
    one = clip(seed=3)
    inputs = transcriber.processor([one])
    for rates in ALL_RATES:
        given = {k: v for k, v in inputs.items() if k.startswith("input") or rates.video is not None}
        given = {k: v for k, v in given.items() if k.startswith("pixel") or rates.audio is not None}
        ids = transcriber.model.generate(**given, rates=rates, do_sample=False, **SHORT)
        text = transcriber.processor.decode_text(ids)[0]
        assert transcriber.transcribe(one, rates, **SHORT).text == text
        assert text


def test_several_rates_encode_once(transcriber, monkeypatch):
    calls, encode = [], transcriber.model.encode
    monkeypatch.setattr(transcriber.model, "encode", lambda **inputs: calls.append(1) or encode(**inputs))
    many = transcriber.transcribe_rates(clip(), ALL_RATES, media_seconds=0.5, **SHORT)
    assert len(calls) == 1
    assert [out.rates for out in many] == ALL_RATES
    assert {out.seconds.media for out in many} == {0.5}
    assert [out.text for out in many] == [transcriber.transcribe(clip(), rates, **SHORT).text for rates in ALL_RATES]


lengths = st.tuples(st.none() | st.integers(6000, 30000), st.none() | st.integers(6, 40)).filter(any)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(st.lists(lengths, min_size=2, max_size=4))
def test_a_batch_is_its_clips_one_by_one(transcriber, sizes):
    clips = [clip(samples, frames, seed) for seed, (samples, frames) in enumerate(sizes)]
    rates = [Rates(4, 2), Rates(16, 5)]
    together = transcriber.transcribe_batch(clips, rates, **SHORT)
    for one, row in zip(clips, together, strict=True):
        alone = transcriber.transcribe_rates(one, rates, **SHORT)
        assert [(out.text, out.tokens, out.rates, out.task) for out in row] == [
            (out.text, out.tokens, out.rates, out.task) for out in alone
        ]
        assert [out.tflops for out in row] == pytest.approx([out.tflops for out in alone])


def test_beams_reach_the_model(transcriber):
    options = {**SHORT, "min_new_tokens": SHORT["max_new_tokens"]}  # written by all beams, while the clip is read once
    greedy = transcriber.transcribe(clip(), "4,2", **options)
    beams = transcriber.transcribe(clip(), "4,2", num_beams=4, length_penalty=-1.0, **options)
    assert beams.tflops > greedy.tflops


@pytest.mark.parametrize(
    ("lacking", "asked", "got"),
    [
        ({"frames": None}, "4,2", "4,-"),
        ({"samples": None}, "4,2", "-,2"),
        ({"frames": None}, "16,-", "16,-"),
    ],
)
def test_a_missing_modality_is_left_out(transcriber, lacking, asked, got):
    out = transcriber.transcribe(clip(**lacking), asked, **SHORT)
    assert str(out.rates) == got
    assert out.task == Rates.parse(got).task
    missing = "video" if "frames" in lacking else "audio"
    assert getattr(out.tokens, missing) == 0
    assert out.text == transcriber.transcribe(clip(**lacking), got, **SHORT).text


@pytest.mark.parametrize(
    ("given", "rates", "message"),
    [
        (clip(frames=None), "-,2", "the clip has no visible mouth: choose rates of another task than vsr"),
        (clip(samples=None, name="mute.mp4"), "4,-", r"mute\.mp4 has no sound: choose rates of another task than asr"),
        (clip(samples=16 * 320 - 1), "16,2", r"0\.30 s of audio, too little for audio rate 16 \(it needs 0\.32 s\)"),
        (clip(frames=4), "4,5", r"0\.16 s of video, too little for video rate 5 \(it needs 0\.20 s\)"),
        (clip(samples=160_001), "4,2", "exceed the audio encoder's window of 10 s"),
        (clip(), "8,2", "audio rates 4, 16 and video rates 2, 5"),
        (clip(), "4", "not readable"),
    ],
)
def test_what_cannot_be_transcribed(transcriber, given, rates, message):
    with pytest.raises(MomeError, match=message):
        transcriber.transcribe(given, rates, **SHORT)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_transcript_without_an_end_is_said_to_be_cut_off(tiny_model, beams):
    transcriber, clips = mome.load(tiny_model), [clip(8000 + 3200 * n, 12 + 5 * n, n) for n in range(6)]
    transcriber.model.config.generation = None
    torch.manual_seed(0)
    for value in (*transcriber.model.language_model.parameters(), *transcriber.model.connector.parameters()):
        if value.dim() > 1:  # far enough from the start for transcripts to differ
            torch.nn.init.normal_(value, std=2 * value.shape[-1] ** -0.5)

    def written(end: int | None) -> list[list[int]]:
        options = {"rates": Rates(4, 2), "eos_token_id": end, "pad_token_id": 0, "max_new_tokens": 6}
        return transcriber.model.generate(**transcriber.processor(clips), **options, num_beams=beams).tolist()

    free = written(None)
    end = next(token for row in free for token in row if 0 < sum(token in other for other in free) < len(free))
    ended = [end in row for row in written(end)]
    assert {*ended} == {True, False}, "one is still being written when the limit is reached, another is not"
    outs = transcriber.transcribe_batch(
        clips, [Rates(4, 2)], eos_token_id=end, pad_token_id=0, max_new_tokens=6, num_beams=beams
    )
    line = "the transcript is cut off at token 6, before its end: raise max_new_tokens"
    assert [out.warnings for (out,) in outs] == [() if whole else (line,) for whole in ended]


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 2, "num_beams": 2},
        {"generation_config": GenerationConfig(num_return_sequences=2, num_beams=2)},
        {"return_dict_in_generate": True},
    ],
)
def test_other_results_than_one_transcript_are_refused(transcriber, options):
    with pytest.raises(
        MomeError, match=r"option '(num_return_sequences|return_dict_in_generate)' is not one of decoding"
    ):
        transcriber.transcribe(clip(), "4,2", **options)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), MemoryError()])
def test_memory_that_does_not_suffice_is_told_of_the_clip(transcriber, monkeypatch, error):
    def encode(**_):
        raise error

    monkeypatch.setattr(transcriber.model, "encode", encode)
    with pytest.raises(MomeError, match=r"^memory does not suffice for talk\.mp4: "):
        transcriber.transcribe(clip(name="talk.mp4"), "4,2", **SHORT)


def test_the_shortest_clips(transcriber):
    for one in (clip(samples=16 * 320), clip(frames=5)):
        out = transcriber.transcribe(one, "16,5", **SHORT)
        assert 1 in (out.tokens.audio, out.tokens.video)


def test_files(transcriber, tmp_path):
    wave = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    sound = write(tmp_path / "sound.wav", wave=wave)
    out = transcriber.transcribe(str(sound), "4,-", **SHORT)
    assert (out.file, out.tokens.audio) == (str(sound), 12)
    assert out.seconds.media > 0
    fallen = transcriber.transcribe(sound, "4,2", **SHORT)
    assert (str(fallen.rates), fallen.text) == ("4,-", out.text)
    assert any("no video" in warning for warning in fallen.warnings)


def test_loading(tiny_model, tmp_path, monkeypatch):
    assert mome.load(tiny_model).name == str(tiny_model)
    assert not mome.load(str(tiny_model)).model.training
    monkeypatch.setitem(bundled.BUNDLED, "mome-tiny", tiny_model)
    assert mome.load().name == mome.load("mome-tiny").name == "mome-tiny"
    for name in ("mome-tiny", "mome-base"):
        monkeypatch.setitem(bundled.BUNDLED, name, tmp_path / "gone")
        with pytest.raises(MomeError, match=f"the bundled model is not at {tmp_path / 'gone'}: "):
            mome.load(name)
    with pytest.raises(MomeError, match="the bundled model is not at"):
        mome.load()


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/at", "/nowhere/at", "a/b/c"])
def test_names_of_no_model(name):
    with pytest.raises(MomeError, match=f"no model at {name}: give a model folder or a hub id"):
        mome.load(name)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(MomeError, match=r"is not a model folder: it has no config\.json"):
        mome.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(MomeError, match="type whisper"):
        mome.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MomeError, match="no model at"):
        mome.load(tmp_path / "file")


@pytest.mark.parametrize("lost", ["tokenizer.json", "processor_config.json", "model.safetensors", "language_model"])
def test_incomplete_model_folders(tiny_model, tmp_path, lost):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    with pytest.raises(MomeError, match=str(folder)) as caught:
        mome.load(folder)
    assert "\n" not in str(caught.value)


def test_the_tokenizers_end_ends_a_transcript(tiny_model):
    transcriber, one, rates = mome.load(tiny_model), clip(seed=3), Rates(4, 2)
    config, tokenizer = transcriber.model.config, transcriber.processor.tokenizer
    config.generation = None
    free = transcriber.model.generate(**transcriber.processor([one]), rates=rates, max_new_tokens=12)[0].tolist()
    last = next(i for i in range(2, len(free)) if free[i] not in free[:i])
    transcriber.model.language_model.generation_config.eos_token_id = free[1]  # its folder's, of another kind of text
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[last])

    def new_tokens(**options) -> int:
        limit = {} if "generation_config" in options else {"max_new_tokens": 12}
        out = transcriber.transcribe(one, rates, **limit, **options)
        costs = [inference_cost(config, rates, 50, 25, new_tokens=count).tflops for count in range(13)]
        return costs.index(out.tflops)

    assert new_tokens() == last + 1
    assert new_tokens(eos_token_id=[free[1]]) == free.index(free[1]) + 1
    settings = GenerationConfig(eos_token_id=free[1], max_new_tokens=3)
    assert new_tokens(generation_config=settings) == min(free.index(free[1]) + 1, 3)
    assert new_tokens(generation_config=GenerationConfig(max_new_tokens=2)) == 2


@pytest.mark.parametrize("rates", ["-,2", "4,-", "4,2"])
def test_what_the_language_model_cannot_hold_is_refused_before_any_work(tiny_model, tmp_path, monkeypatch, rates):
    transcriber = mome.load(tiny_model)
    config = transcriber.model.config
    prompt = len(config.start_ids) + len(config.text_ids(Rates.parse(rates).task))
    one = clip(samples=24_000, frames=37, name="talk.mp4")  # 18 tokens of each
    path = write(tmp_path / "talk.mkv", [np.zeros((96, 96), np.uint8)] * 37, wave=0.1 * np.ones(24_000, np.float32))
    config.text_config.max_position_embeddings = prompt + 36 + SHORT["max_new_tokens"]
    for source in (one, path):
        assert transcriber.transcribe(source, rates, **SHORT).rates == Rates.parse(rates)
    config.text_config.max_position_embeddings = prompt + 17 + SHORT["max_new_tokens"]
    monkeypatch.setattr(transcriber.model, "encode", None)
    with pytest.raises(MomeError, match=rf"talk\.mp4 makes \d+ tokens at rates {rates}, more than the {prompt + 17} "):
        transcriber.transcribe(one, rates, **SHORT)
    monkeypatch.setattr("mome.media.reading.upright_size", None)
    with pytest.raises(MomeError, match=r"talk\.mkv.* lasts 1\.\d+ s, longer than the 1\.\d+ s that can be "):
        transcriber.transcribe(path, rates, vad=False, **SHORT)


def test_a_transcript_that_leaves_no_room_for_speech_is_named(tiny_model, tmp_path):
    transcriber = mome.load(tiny_model)
    positions = transcriber.model.config.text_config.max_position_embeddings
    path = write(tmp_path / "talk.mkv", [np.zeros((96, 96), np.uint8)] * 37, wave=0.1 * np.ones(24_000, np.float32))
    for source in (clip(), path):
        with pytest.raises(MomeError, match=rf"max_new_tokens={positions} leaves no room.* {positions} positions"):
            transcriber.transcribe(source, "4,2", max_new_tokens=positions)


def test_streams_without_content_are_too_short(transcriber):
    sound, pictures = np.zeros(0, np.float32), np.zeros((0, 96, 96), np.uint8)
    with pytest.raises(MomeError, match=r"0\.00 s of video, too little"):
        transcriber.transcribe(Clip(None, pictures, 0.0), "-,2")
    with pytest.raises(MomeError, match=r"0\.00 s of audio, too little"):
        transcriber.transcribe(Clip(sound, None, 0.0), "4,-")


def test_a_limit_of_tokens_per_second(transcriber):
    clips = [clip(16000, 25, seed=1), clip(48000, 75, seed=2)]
    ids = []

    def generate(**options):
        ids.append(type(transcriber.model).generate(transcriber.model, **options))
        return ids[-1]

    transcriber.model.generate = generate
    try:
        options = {"eos_token_id": 2, "min_new_tokens": 40, "max_new_tokens": 40}
        outs = transcriber.transcribe_batch(clips, [Rates(4, 2)], **options, max_tokens_per_second=2.5)
        free = transcriber.transcribe_batch(clips, [Rates(4, 2)], **options)
    finally:
        del transcriber.model.generate
    assert [row.tolist().index(2) + 1 for row in ids[0]] == [8 + 2, 8 + 7]
    for number, (limited,) in enumerate(outs):
        (line,) = limited.warnings
        assert (
            line
            == f"the transcript is cut off at token {(10, 15)[number]}, before its end: raise max_tokens_per_second"
        )
        assert free[number][0].text.startswith(limited.text)
    assert all("raise max_new_tokens" in out.warnings[0] for (out,) in free)


def test_a_model_can_have_its_own_limit_of_tokens_per_second(tiny_model):
    own = mome.load(tiny_model)
    own.model.config.generation = {"max_tokens_per_second": 0.5, "min_new_tokens": 20}
    assert "at token 8," in own.transcribe(clip(), "4,2", eos_token_id=2, max_new_tokens=20).warnings[0]
    asked = own.transcribe(clip(), "4,2", eos_token_id=2, max_new_tokens=20, max_tokens_per_second=3)
    assert "at token 11," in asked.warnings[0]


def test_whatever_holds_a_recording(transcriber, tmp_path, web):
    wave = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    path = write(tmp_path / "talk.mkv", wave=wave, audio_codec="pcm_f32le")
    Handler.files["/talk.mkv"] = content = path.read_bytes()
    expected = transcriber.transcribe(path, "4,-", **SHORT)
    sources = [str(path), f"{web}/talk.mkv", content, io.BytesIO(content), clip(), path]
    found = transcriber.transcribe(sources, "4,-", **SHORT)
    assert [one.file for one in found] == [str(path), f"{web}/talk.mkv", "", "", "", str(path)]
    assert {one.text for one in found[:4]} == {found[5].text} == {expected.text}
    arrays = (wave, torch.from_numpy(wave), np.stack([wave, wave]))
    found = transcriber.transcribe(arrays, "4,-", sampling_rate=16_000, **SHORT)
    assert [one.text for one in found] == 3 * [expected.text]
    assert found[0].tokens == expected.tokens
    assert transcriber.transcribe([], "4,-") == []


def test_an_array_with_a_mouth(transcriber):
    one = clip()
    found = transcriber.transcribe(one.audio, "4,2", sampling_rate=16_000, frames=one.mouth, **SHORT)
    expected = transcriber.transcribe(one, "4,2", **SHORT)
    assert (found.text, found.tokens, found.warnings) == (expected.text, expected.tokens, ())
    lips = transcriber.transcribe(None, "-,2", frames=one.mouth, **SHORT)
    assert lips.text == transcriber.transcribe(one, "-,2", **SHORT).text
    with pytest.raises(MomeError, match="sampling_rate"):
        transcriber.transcribe(one.audio, "4,-", **SHORT)


def test_messages_name_what_was_given(transcriber, web, tmp_path, monkeypatch):
    wave = (0.1 * np.random.default_rng(0).standard_normal(11 * 16000)).astype(np.float32)
    Handler.files["/talk.wav"] = write(tmp_path / "talk.wav", wave=wave[:16000]).read_bytes()
    warning, *_ = transcriber.transcribe(f"{web}/talk.wav", "4,2", **SHORT).warnings
    assert warning == f"{web}/talk.wav: no video, so only the sound can be used"
    warning, *_ = transcriber.transcribe(wave[:16000], "4,2", sampling_rate=16_000, **SHORT).warnings
    assert warning == "the recording: no video, so only the sound can be used"
    monkeypatch.chdir(tmp_path)
    dotted = transcriber.transcribe("./talk.wav", "4,2", **SHORT)
    assert (dotted.file, dotted.warnings[0]) == ("talk.wav", "talk.wav: no video, so only the sound can be used")
    with pytest.raises(MomeError, match=r"^the recording lasts 11\.00 s, longer than the 10 s"):
        transcriber.transcribe(wave, "4,-", sampling_rate=16_000, vad=False, **SHORT)


@pytest.mark.parametrize("device", ["cuda:99", "mps", "gpu", "nowhere:1"])
def test_devices_that_are_not_there(tiny_model, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(MomeError, match=f"^there is no device {device}: choose from cpu"):
        mome.load(tiny_model, device=device)


def test_device_and_dtype(tiny_model):
    for device in ("cpu", torch.device("cpu")):
        assert mome.load(tiny_model, device=device).model.device == torch.device("cpu")
    for dtype in ("bfloat16", torch.bfloat16):
        loaded = mome.load(tiny_model, device="cpu", dtype=dtype)
        assert {value.dtype for value in loaded.model.parameters()} == {torch.bfloat16}
        assert loaded.transcribe(clip(), "4,2", **SHORT).task == "avsr"
    for dtype in ("bf16", "int8", 16, "load"):
        with pytest.raises(ValueError, match=r"dtype=.* is not supported: give a floating-point dtype"):
            mome.load(tiny_model, dtype=dtype)
