"""Too much, too large, broken, gone: every request has an answer, and the server stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from scripts.serving.hostile import uploads
from scripts.serving.server import CLIP, TEXT, Server, serving, until

import mome
from mome import Rates
from mome.decoding.recordings import Recordings
from mome.media import load_clip
from tests.media.builders import write

KEY = "secret-1"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with twelve places, a key, and rates by load."""
    log = tmp_path_factory.mktemp("small") / "log"
    options = ("--queue", "12", "--readers", "1", "--rates", "auto", "--budget-ms", "600", "--batch", "4")
    with serving(log, *options, environment={"MOME_API_KEY": f"another {KEY}"}) as found:
        yield found


async def many(server: Server, clients: int, seconds: float, key: str = "") -> list[tuple[int, str, float]]:
    """Clients that ask again and again: status, rates and seconds of each answer."""
    content, found = CLIP.read_bytes(), []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    end = time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits, headers=headers) as client:

        async def one() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                form = {"files": {"file": ("a.mp4", content)}, "data": {"model": "mome-tiny"}}
                reply = await client.post("/v1/audio/transcriptions", **form)
                found.append((reply.status_code, reply.headers.get("mome-rates", ""), time.monotonic() - began))
                if reply.status_code == 200:
                    assert reply.json()["text"] == TEXT
                else:
                    assert int(reply.headers["retry-after"]) >= 1
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(one() for _ in range(clients)))
    return found


def test_four_times_more_clients_than_places(small):
    """All have an answer, and those that are let in are read at coarser rates while there are many."""
    alone = lambda: small.post(key=KEY).headers["mome-rates"]  # noqa: E731
    assert alone() == "4,2"
    found = asyncio.run(many(small, 48, 3.0, KEY))
    answers = Counter(status for status, *_ in found)
    assert set(answers) == {200, 429}
    assert answers[200] > 4
    assert max(seconds for status, _, seconds in found if status == 429) < 3
    assert {rates for _, rates, _ in found} & {"4,5", "16,2", "16,5"}
    until(lambda: alone() == "4,2", 10)


def test_rates_by_load_are_those_of_the_task(small):
    reply = small.post(key=KEY, rates="auto", task="asr")
    assert reply.json()["mome"]["rates"] == reply.headers["mome-rates"] == "4,-"


@pytest.mark.parametrize("key", ["", "secret", "secret-12", "sécret"])
def test_keys(small, key):
    header = {"Authorization": f"Bearer {key}".encode()} if key else {}
    for path in ("/v1/models", "/metrics"):
        assert small.get(path, headers=header).status_code == 401
    reply = httpx2.post(f"{small.url}/v1/audio/transcriptions", content=bytes(5 << 20), headers=header, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert small.get("/healthz").status_code == 200
    assert small.get("/v1/models", headers={"Authorization": "Bearer another"}).status_code == 200
    assert KEY not in small.log.read_text()


def test_a_killed_model_is_noticed_and_started_again(small):
    """Clients get 503 with Retry-After, and then transcripts again."""
    model, answered, killed = small.children()[0], threading.Event(), threading.Event()

    def ask():
        """Again and again, so that the model is at work whenever it is killed."""
        while (reply := small.post(key=KEY, rates="4,2", beams=16)).status_code == 200 and not killed.is_set():
            answered.set()
        return reply

    with ThreadPoolExecutor(8) as threads:  # of so many beams, each is transcribed by itself
        waiting = [threads.submit(ask) for _ in range(8)]
        assert answered.wait(30)
        os.kill(model, signal.SIGKILL)
        killed.set()
        until(lambda: small.get("/readyz").status_code == 503, 5)
        refused = small.post(key=KEY)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "model_not_ready"
        replies = [each.result() for each in waiting]
    missed = [reply for reply in replies if reply.status_code != 200]  # or waited too long for the next model
    assert "model_ended" in [reply.json()["error"]["code"] for reply in missed]
    for reply in missed:
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
    until(lambda: small.get("/readyz").status_code == 200, 60)
    assert small.post(key=KEY).json()["text"] == TEXT
    assert small.get("/healthz").status_code == 200


def test_a_killed_reader_is_replaced(server):
    os.kill(server.children()[-1], signal.SIGKILL)
    until(lambda: server.metric('mome_process_ends_total{kind="reader"}') >= 1, 10)
    assert [server.post().json()["text"] for _ in range(3)] == [TEXT] * 3


@pytest.mark.speech
def test_a_film_of_lips_that_never_rest(server, tmp_path):
    """Its parts overlap, and are joined as elsewhere; at once, and as they come."""
    mouth = load_clip(CLIP, audio=False).mouth
    assert mouth is not None
    film = write(tmp_path / "lips.mkv", list(np.concatenate([mouth[15:50], mouth[15:50][::-1]] * 5)))
    transcriber = mome.load()
    cutter = Recordings(transcriber, [Rates(None, 2)], {}, None, None, True, None)
    assert [part.continued for part in cutter.parts(film)][:2] == [True, True]
    expected = transcriber.transcribe(film, "-,2", words=True)
    assert len(expected.segments) > 2
    words = [word.word for segment in expected.segments for word in segment.words]
    assert server.post(film, rates="-,2").json()["text"] == " ".join(words) == expected.text
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]}
    reply = server.post(film, rates="-,2", **asked).json()
    assert [segment["text"] for segment in reply["segments"]] == [segment.text for segment in expected.segments]
    assert [word["word"] for word in reply["words"]] == words
    for found, segment in zip(reply["segments"], expected.segments, strict=True):
        assert (found["start"], found["end"]) == pytest.approx((segment.start, segment.end), abs=0.05)
    lines = [line for line in server.post(film, rates="-,2", stream="true").text.splitlines() if line[:5] == "data:"]
    events = [json.loads(line[5:]) for line in lines]
    deltas = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == events[-1]["text"] == expected.text
    assert len(deltas) == len(expected.segments)


def test_what_is_too_large(server, tmp_path):
    reply = server.post(bytes(3 << 20))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "file_too_large")

    def pieces() -> Iterator[bytes]:  # without a length
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield bytes(100_000)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = httpx2.post(f"{server.url}/v1/audio/transcriptions", content=pieces(), headers=kind)
    assert reply.status_code == 413
    long = write(tmp_path / "a.ogg", wave=np.zeros(48_000 * 61, np.float32), rate=48_000, audio_codec="libopus")
    reply = server.post(long)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "recording_too_long")
    large = write(tmp_path / "b.mkv", [np.zeros((202, 202), np.uint8)] * 3)
    reply = server.post(large)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "pictures_too_large")


def test_hostile_uploads(server):
    """A few of each kind; scripts/serving/load.py sends a thousand."""
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda each: (each[0], server.post(each[1])), uploads(24)))
    assert {reply.status_code for _, reply in replies} <= {200, 400, 413}
    for kind, reply in replies:
        if kind in ("noise", "playlist", "bomb", "empty"):
            assert reply.status_code == 400, kind
        for secret in ("Traceback", "/tmp", "root:", "site-packages", "mome-serve"):
            assert secret not in reply.text
    assert server.post().json()["text"] == TEXT


def test_broken_connections_free_their_places(server):
    """Clients that go in the middle of an upload or before the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n"
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    rest = b'\r\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nmome-tiny\r\n--x--\r\n'
    whole = start + CLIP.read_bytes() + rest
    events = whole.replace(b"--x--", b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--')
    for body, length in [(start, 100_000), (whole, len(whole)), (events, len(events))] * 4:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + f"Content-Length: {length}\r\n\r\n".encode() + body)
            if body is start:
                until(lambda: server.metric("mome_requests_taken") > 0, 5)
    until(lambda: server.metric("mome_requests_taken") == 0, 10)
    assert server.metric("mome_waiting_speech_seconds") == 0
    assert server.post().status_code == 200


@pytest.mark.slow
def test_a_signal_lets_requests_finish(tmp_path):
    with serving(tmp_path / "log", "--readers", "1") as own, ThreadPoolExecutor(3) as threads:
        children = own.children()
        waiting = [threads.submit(own.post, rates="4,2", beams=4) for _ in range(3)]
        until(lambda: own.metric("mome_requests_taken") == 3)
        own.process.send_signal(signal.SIGTERM)
        assert [each.result().json()["text"] for each in waiting] == [TEXT] * 3
        assert own.process.wait(20) == 0
        with pytest.raises(httpx2.TransportError):
            own.get("/healthz")
        assert "Traceback" not in own.log.read_text()
        until(lambda: not any(map(_runs, children)), 10)


@pytest.mark.slow
def test_nothing_stays_when_the_server_is_killed(tmp_path):
    with serving(tmp_path / "log", "--readers", "1") as own:
        children = own.children()
        assert len(children) == 2
        os.kill(own.process.pid, signal.SIGKILL)
        until(lambda: not any(map(_runs, children)), 10)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
