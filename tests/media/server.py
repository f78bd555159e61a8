"""A web server on this machine, with recordings and with what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest


class Handler(BaseHTTPRequestHandler):
    """Serves :attr:`files`, and pages that are too large, too slow, cut off or elsewhere."""

    files: ClassVar[dict[str, bytes]] = {}
    gone: ClassVar[threading.Event] = threading.Event()
    moved: ClassVar[dict[str, str]] = {
        "/moved": "/talk%20one.wav",
        "/loop": "/loop",
        "/to-file": "file:///etc/hostname",
        "/to-ftp": "ftp://127.0.0.1/talk.wav",
        "/to-data": "data:text/plain,words",
    }

    def do_GET(self) -> None:
        page = self.path.partition("?")[0]
        if page in self.files:
            self.head(200, len(self.files[page]))
            self.wfile.write(self.files[page])
        elif page in self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved[page])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif page == "/large":
            self.head(200, 10**12)
        elif page == "/endless":
            self.head(200)
            self.pieces(b"x" * 1000, 0)
        elif page == "/slow":
            self.head(200, 1000)
            self.gone.wait(5)
        elif page == "/trickle":
            self.head(200)
            self.pieces(b"x", 0.02)
        elif page == "/cut":
            self.head(200, 1000)
            self.wfile.write(b"x" * 100)
        else:
            self.send_error(404, "Not Found")

    def head(self, code: int, length: int | None = None) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def pieces(self, piece: bytes, pause: float) -> None:
        """Send until the other side has had enough."""
        try:
            while not self.gone.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address; ``Handler.files`` maps paths to what is there."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Handler, "files", {})
    monkeypatch.setattr(Handler, "gone", threading.Event())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Handler.gone.set()
        server.shutdown()
        thread.join()
