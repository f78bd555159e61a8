"""Real clients: the openai package, curl, and plain HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import openai
import pytest
from scripts.serving.server import CLIP, TEXT, Server

from tests.media.builders import write


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def test_the_openai_client(client):
    with CLIP.open("rb") as file:
        reply = client.audio.transcriptions.create(model="mome-tiny", file=file)
    assert reply.text == TEXT
    assert reply.usage.type == "duration"
    own = reply.model_extra["mome"]
    assert (own["rates"], own["task"], own["unused"]) == ("4,2", "avsr", [])
    assert own["tokens"]["audio"] + own["tokens"]["video"] + own["tokens"]["prompt"] == own["tokens"]["total"] == 79
    assert own["gflops"] == pytest.approx(1.958545)
    times = own["milliseconds"]
    assert 0 < times["upload"] + times["wait"] + times["encode"] + times["decode"] <= times["total"] + 0.5


def test_the_openai_client_with_all_that_it_can_say(client):
    with CLIP.open("rb") as file:
        reply = client.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            prompt="a sentence of GRID",
            temperature=0.2,
            include=["logprobs"],
            chunking_strategy="auto",
            extra_body={"rates": "16,5", "beams": 2},
        )
    assert reply.text == TEXT == reply.segments[0].text
    assert [word.word for word in reply.words] == TEXT.split()
    times = [time for word in reply.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert reply.duration == pytest.approx(2.432, abs=0.01)
    assert -0.5 < reply.segments[0].avg_logprob < 0
    assert 0 <= reply.segments[0].no_speech_prob < 0.1
    own = reply.model_extra["mome"]
    assert own["rates"] == "16,5"
    assert own["unused"] == ["language", "prompt", "temperature", "chunking_strategy", "include[]"]
    assert "no use of language" in own["warnings"][-1]


def test_the_openai_client_streams(client):
    with CLIP.open("rb") as file:
        events = list(client.audio.transcriptions.create(model="mome-tiny", file=file, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == TEXT
    assert events[-1].model_extra["mome"]["rates"] == "4,2"


def test_many_of_the_async_client(server):
    """Different rates, tasks and beams at the same time: each gets its own."""
    kinds = [{"rates": "4,2"}, {"rates": "16,-"}, {"rates": "-,2"}, {"task": "asr"}, {"rates": "16,5", "beams": 2}] * 3

    async def ask() -> list:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
            file = CLIP.read_bytes()
            create = client.audio.transcriptions.create
            calls = [create(model="mome-tiny", file=("a.mp4", file), extra_body=kind) for kind in kinds]
            return await asyncio.gather(*calls)

    replies = asyncio.run(ask())
    expected = ["4,2", "16,-", "-,2", "4,-", "16,5"] * 3
    assert [reply.model_extra["mome"]["rates"] for reply in replies] == expected
    heard = [reply.text for reply, rates in zip(replies, expected, strict=True) if rates != "-,2"]
    assert heard == [TEXT] * 12


def test_the_openai_clients_errors(client):
    with pytest.raises(openai.NotFoundError, match="is not served") as caught, CLIP.open("rb") as file:
        client.audio.transcriptions.create(model="gpt-9", file=file)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with (
        pytest.raises(openai.BadRequestError, match="not in this model's rate set") as refused,
        CLIP.open("rb") as file,
    ):
        client.audio.transcriptions.create(model="mome-tiny", file=file, extra_body={"rates": "3,2"})
    assert refused.value.param == "rates"
    with pytest.raises(openai.BadRequestError, match="cannot be opened as audio or video"):
        client.audio.transcriptions.create(model="mome-tiny", file=("a.mp4", b"this is no film"))


def test_the_openai_client_finds_the_model(client):
    assert [model.id for model in client.models.list()] == ["mome-tiny"]
    assert client.models.retrieve("mome-tiny").owned_by == "mome"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["response_format=text"], TEXT + "\n"),
        (["response_format=srt"], f"1\n00:00:00,620 --> 00:00:01,960\n{TEXT}\n"),
        (["response_format=vtt", "rates=4,-"], "WEBVTT\n"),
    ],
)
def test_curl(server, fields, expected):
    options = [part for field in [f"file=@{CLIP}", "model=mome-tiny", *fields] for part in ("-F", field)]
    command = ["curl", "-sS", "--fail-with-body", *options, f"{server.url}/v1/audio/transcriptions"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(expected)
    assert TEXT in done.stdout


@pytest.mark.parametrize("kind", ["mp4", "webm", "mov", "wav", "mp3", "ogg"])
def test_containers(server, tmp_path, kind):
    """The picture is used where there is one, whatever the file is called."""
    pictures = None if kind in ("wav", "mp3", "ogg") else [np.full((96, 96), 40 + k, np.uint8) for k in range(30)]
    codecs = {
        "webm": ("libopus", "libvpx"),
        "wav": ("pcm_s16le", ""),
        "mp3": ("libmp3lame", ""),
        "ogg": ("libopus", ""),
    }
    audio, video = codecs.get(kind, ("aac", "mpeg4"))
    wave = 0.1 * np.random.default_rng(0).standard_normal(48_000 * 6 // 5).astype(np.float32)
    options = {"rate": 48_000, "audio_codec": audio, "video_codec": video, "clock": Fraction(1, 25)}
    film = write(tmp_path / f"a.{kind}", pictures, wave=wave, **options)
    reply = server.post(film)
    assert reply.status_code == 200, reply.text
    assert reply.json()["mome"]["task"] == ("asr" if pictures is None else "avsr")


def test_a_long_recording_comes_in_pieces(server, tmp_path):
    """Longer than the model hears at once."""
    from mome.media import load_clip

    sentence = load_clip(CLIP, video=False).audio
    pause = 1e-4 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    film = write(tmp_path / "talk.wav", wave=np.concatenate([sentence, pause] * 6))
    events = [json.loads(line[6:]) for line in server.post(film, stream="true").text.splitlines() if line]
    assert [event["type"] for event in events] == ["transcript.text.delta"] * 6 + ["transcript.text.done"]
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"] == " ".join([TEXT] * 6)
    starts = [event["mome"]["start"] for event in events[:-1]]
    assert starts == sorted(starts)
    reply = server.post(film, response_format="verbose_json").json()
    assert [segment["text"] for segment in reply["segments"]] == [TEXT] * 6
    assert [segment["start"] for segment in reply["segments"]] == starts


def test_nothing_is_said(server, tmp_path):
    pause = 1e-3 * np.random.default_rng(0).standard_normal(16_000 * 3).astype(np.float32)
    reply = server.post(write(tmp_path / "a.wav", wave=pause))
    assert (reply.status_code, reply.json()["text"]) == (200, "")
    assert "nothing is said in it" in reply.json()["mome"]["warnings"][-1]


def test_the_pages_for_machines(server):
    assert server.get("/healthz").json() == {"status": "ok"}
    assert server.get("/readyz").json() == {"status": "ready"}
    form = server.get("/openapi.json").json()["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    assert {"file", "model", "rates", "task", "beams"} <= {
        *form["content"]["multipart/form-data"]["schema"]["properties"]
    }
    assert server.get("/docs").status_code == 200
    before = server.metric('mome_requests_total{status="200"}')
    assert server.post().status_code == 200
    assert server.metric('mome_requests_total{status="200"}') == before + 1
    assert server.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert "access-control-allow-origin" not in server.get("/healthz", headers={"Origin": "http://elsewhere"}).headers
