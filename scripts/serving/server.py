"""A server in a process of its own, as ``mome serve`` starts it, and ways to ask and to watch it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

import mome

CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
TEXT = "bin blue at f two now"


@dataclass
class Server:
    """A running server: its process and its address."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def post(self, path: Path | bytes = CLIP, *, key: str = "", timeout: float = 60, **fields: Any) -> httpx2.Response:
        """Send a recording."""
        content = path if isinstance(path, bytes) else path.read_bytes()
        return httpx2.post(
            f"{self.url}/v1/audio/transcriptions",
            files={"file": ("clip.mp4", content)},
            data={"model": "mome-tiny", **fields},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
        )

    def get(self, path: str, **options: Any) -> httpx2.Response:
        """Ask for a page."""
        return httpx2.get(self.url + path, timeout=30, **options)

    def metric(self, name: str) -> float:
        """A figure of /metrics."""
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)[0])

    def megabytes(self) -> float:
        """Memory of the HTTP process that is its own."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)) / 1024

    def children(self) -> list[int]:
        """Ids of the processes that the fork server has started, in order; of the model first."""
        found = []
        for own in _children(self.process.pid):
            found += _children(own)
        return sorted(found)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def serving(log: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Start a server and wait until it takes requests."""
    command = [sys.executable, "-m", "mome", "serve", "--port", "0", "--device", "cpu", *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        until(lambda: "serving" in log.read_text() or process.poll() is not None, 120)
        found = re.search(r"serving \S+ at (\S+),", log.read_text())
        assert found is not None, log.read_text()
        yield Server(process, found[1], log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(30)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until it is true, and return what it says."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
    return found
