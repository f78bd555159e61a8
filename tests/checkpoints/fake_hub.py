"""A local server with those answers of the Hugging Face hub that downloads and uploads need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, file_download

_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|commit|preupload|branch)/([^/]+))?")


@dataclass
class Repo:
    """One repository: its files at each commit, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: int = 0  # the status that files are refused with

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files onto a branch and return the commit."""
        parent = self.commits.get(self.branches.get(branch, ""), {})
        sha = hashlib.sha1(json.dumps([len(self.commits), branch, sorted(files)]).encode()).hexdigest()
        self.commits[sha] = parent | files
        self.branches[branch] = sha
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files."""
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class Hub(ThreadingHTTPServer):
    """Its repositories, the requests it had, and the faults it shall have."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.cut: set[str] = set()  # files whose next download ends half-way
        self.broken: set[str] = set()  # files of which nothing comes
        self.down: int = 0  # the status of every answer
        self.writers: set[str] | None = None  # tokens that may write; None lets anyone

    @property
    def url(self) -> str:
        """The value for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes] | Path, branch: str = "main", gated: int = 0) -> str:
        """Put a model onto the hub and return its commit."""
        if isinstance(files, Path):
            paths = (path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repo = self.repos.setdefault(name, Repo())
        repo.gated = gated
        return repo.commit(files, branch)

    def downloads(self) -> list[str]:
        """The files that were sent, completely or in part."""
        matches = [_FILE.fullmatch(path) for method, path, _ in self.asked if method == "GET"]
        return sorted(match[3] for match in matches if match)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that runs within the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if self.server.down:
            return self._send(self.server.down, b"{}", {"X-Error-Message": "closed on Sundays"})
        if match := _FILE.fullmatch(path):
            return self._file(*match.groups())
        if match := _MODEL.fullmatch(path):
            return self._model(*match.groups())
        return self._send(404, b"{}")

    def _model(self, name: str, what: str | None, revision: str | None) -> None:
        repo = self.server.repos.get(name)
        if repo is None:  # as the hub answers who is not logged in
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        found = repo.files(revision or "main")
        if found is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = found
        if what == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            return self._send(200, json.dumps(entries).encode())
        siblings = [{"rfilename": path} for path in files]
        return self._send(200, json.dumps({"id": name, "modelId": name, "sha": sha, "siblings": siblings}).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self.server.repos.get(name)
        if repo is None:
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if repo.gated:
            return self._refuse(repo.gated, "GatedRepo", f"Access to model {name} is restricted.")
        found = repo.files(revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = found
        if path not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data, status = files[path], 200
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        send = len(data)
        if self.command == "GET" and path in self.server.broken:
            send = 0
        elif self.command == "GET" and path in self.server.cut:
            self.server.cut.discard(path)
            send //= 2
        return self._send(status, data, headers, send)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if not self._chunked() else self._chunks()
        path = self.path.partition("?")[0]
        self.server.asked.append(("POST", path, None))
        if path == "/api/validate-yaml":
            return self._send(200, b'{"errors": [], "warnings": []}')
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.server.writers is not None and token not in self.server.writers:
            return self._refuse(403 if token else 401, "Forbidden", "You don't have the rights.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repos.setdefault(name, Repo()).commit({})
            return self._send(200, json.dumps({"url": f"{self.server.url}/{name}"}).encode())
        match = _MODEL.fullmatch(path)
        assert match is not None, path
        if match[2] == "preupload":
            modes = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return self._send(200, json.dumps({"files": modes}).encode())
        if match[2] == "branch":
            return self._send(200, b"{}")
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        sha = self.server.repos[match[1]].commit(files, match[3])
        answer = {"commitUrl": f"{self.server.url}/{match[1]}/commit/{sha}", "commitOid": sha, "success": True}
        return self._send(200, json.dumps(answer).encode())

    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding") == "chunked"

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, send: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:send])
            if send is not None and send < len(data):
                self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub for all downloads and uploads of a test, with an empty cache and no login."""
    with running() as server:
        use(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MOME_BACKBONES"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
        yield server


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: HfApi(endpoint=url))  # theirs is made once
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
