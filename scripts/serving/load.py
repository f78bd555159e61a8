"""Too many clients for a minute, and a thousand hostile uploads: what becomes of them, and of the server.

    python -m scripts.serving.load [--seconds 60] [--hostile 1000] [--out results/serving.json]

The server is one of mome-tiny with 16 places and a queue limit of 5 s, in processes of its own; 64 clients on loopback
send the demonstration clip again and again, and come back a second after a refusal. Then each hostile upload is sent by
one of 8 clients while another one sends the clip and must have its text.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from mome.analysis.cost import machine
from mome.evaluation.result import run_document, write_json
from scripts.serving.hostile import KINDS, uploads
from scripts.serving.server import CLIP, TEXT, Server, serving

CLIENTS, PLACES, WAIT = 64, 16, 5.0
ALONE, PAUSE = 40, 1.0


async def ask(client: httpx2.AsyncClient, content: bytes) -> tuple[int, str, float]:
    """Status, text or code of the error, and seconds of one request; status 0 if there was no answer."""
    began = time.monotonic()
    try:
        form: dict[str, Any] = {"files": {"file": ("a.mp4", content)}, "data": {"model": "mome-tiny"}}
        reply = await client.post("/v1/audio/transcriptions", **form)
    except httpx2.TransportError as error:
        return 0, type(error).__name__, time.monotonic() - began
    said = reply.json()["text"] if reply.status_code == 200 else reply.json()["error"]["code"]
    return reply.status_code, said, time.monotonic() - began


async def crowd(server: Server, clients: int, seconds: float) -> tuple[list[tuple[int, str, float]], list[float]]:
    """The answers to clients that ask until the time is over, and the HTTP process's memory in MB each second."""
    content, found, memory = CLIP.read_bytes(), [], []
    end = time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

        async def one() -> None:
            while time.monotonic() < end:
                found.append(await ask(client, content))
                if found[-1][0] != 200:
                    await asyncio.sleep(PAUSE)

        async def watch() -> None:
            while time.monotonic() < end:
                memory.append(server.megabytes())
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(one() for _ in range(clients)))
    return found, memory


async def alone(server: Server) -> list[float]:
    """Seconds of requests one after the other."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
        answers = [await ask(client, CLIP.read_bytes()) for _ in range(ALONE + 3)]
    assert all(answer[:2] == (200, TEXT) for answer in answers)
    return [seconds for *_, seconds in answers[3:]]


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95)), "max": max(seconds)}


def load(server: Server, seconds: float) -> dict[str, Any]:
    """The row about too many clients."""
    before = asyncio.run(alone(server))
    answers, memory = asyncio.run(crowd(server, CLIENTS, seconds))
    good = [took for status, said, took in answers if status == 200 and said == TEXT]
    bound = 2 * spread(before)["p95"] + WAIT
    return {
        "clients": CLIENTS,
        "places": PLACES,
        "queue_limit_seconds": WAIT,
        "seconds": seconds,
        "alone_seconds": spread(before),
        "answers": {str(status): count for status, count in sorted(Counter(a[0] for a in answers).items())},
        "without_an_answer": sum(status == 0 for status, *_ in answers),
        "wrong_texts": sum(status == 200 and said != TEXT for status, said, _ in answers),
        "accepted_seconds": spread(good),
        "bound_seconds": bound,
        "accepted_within_bound": sum(took <= bound for took in good) / len(good),
        "refused_seconds": spread([took for status, _, took in answers if status != 200] or [0.0]),
        "http_process_megabytes": {"first": memory[0], "middle": memory[len(memory) // 2], "last": memory[-1]},
    }


def hostile(server: Server, count: int) -> dict[str, Any]:
    """The row about hostile uploads."""
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, leaks, good = 0.0, 0, 0

    def send(upload: tuple[str, bytes]) -> tuple[str, httpx2.Response | None, float]:
        began = time.monotonic()
        try:
            return upload[0], server.post(upload[1], timeout=300), time.monotonic() - began
        except httpx2.TransportError:
            return upload[0], None, time.monotonic() - began

    with ThreadPoolExecutor(8) as threads:
        for number, (kind, reply, took) in enumerate(threads.map(send, uploads(count))):
            statuses[kind]["no answer" if reply is None else str(reply.status_code)] += 1
            slowest = max(slowest, took)
            secrets = ("Traceback", "/tmp/", "root:", "site-packages")
            leaks += reply is not None and any(secret in reply.text for secret in secrets)
            if number % 20 == 0:
                good += server.post(timeout=300).json()["text"] == TEXT
    return {
        "uploads": count,
        "kinds": {kind.__name__: dict(statuses[kind.__name__]) for kind in KINDS},
        "without_an_answer": sum(each["no answer"] for each in statuses.values()),
        "replies_with_a_path_or_traceback": leaks,
        "slowest_seconds": slowest,
        "good_uploads_between": {"sent": len(range(0, count, 20)), "right": good},
        "readers_ended": server.metric('mome_process_ends_total{kind="reader"}'),
        "models_ended": server.metric('mome_process_ends_total{kind="model"}'),
        "http_process_runs": server.process.poll() is None,
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("results/serving.json"))
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "scripts.serving.load", *sys.argv[1:]])
    document = run_document(command=command, model="mome-tiny", data="the demonstration clip", seed=0)
    document["machine"] = machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        options = ("--queue", str(PLACES), "--max-wait", str(WAIT), "--max-mb", "64")
        with serving(Path(folder) / "log", *options) as server:
            document["load"] = load(server, given.seconds)
            print(document["load"], flush=True)
            write_json(given.out, document)
            document["hostile"] = hostile(server, given.hostile)
            print(document["hostile"], flush=True)
            write_json(given.out, document)


if __name__ == "__main__":
    main()
