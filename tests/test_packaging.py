"""The images and the service start what there is, without more rights than they need, as the documentation says.

Images are not built here.
"""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from typer.main import get_command

from mome.cli import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.cuda")


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows them."""
    text = re.sub(r"^#.*\n", "", (PACKAGING / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def arguments(name: str, instruction: str) -> list[str]:
    found: list[str] = json.loads(dict(instructions(name))[instruction])
    return found


def check_serve(words: list[str]) -> None:
    """Fail if words are no call of ``mome serve`` with options that it has."""
    assert [Path(words[0]).name, words[1]] == ["mome", "serve"]
    get_command(app).commands["serve"].make_context("serve", words[2:])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_there_and_not_left_out(name):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in instructions(name) if word == "COPY" and "--from" not in rest]
    sources = {str(Path(source)) for each in copied for source in each}
    assert sources == kept
    assert all((ROOT / source).exists() for source in sources)
    assert not any(fnmatch(source, line) for source in sources for line in ignored if line[0] not in "!#*")
    assert {"pyproject.toml", "constraints.txt", "src"} <= sources


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_and_runs_as_nobody_special(name):
    found = instructions(name)
    installs = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert all("constraints.txt" in each for each in installs)
    assert ("cpu" in installs[0]) == name.endswith("cpu")
    users = [rest for word, rest in found if word == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert "/healthz" in dict(found)["HEALTHCHECK"]
    assert {rest.split()[0] for word, rest in found if word == "FROM"} == {"python:3.11-slim-bookworm"}
    check_serve(arguments(name, "ENTRYPOINT") + arguments(name, "CMD"))


def test_the_documentation_starts_these_images():
    commands = [shlex.split(line) for line in SERVING.splitlines() if line.startswith("docker ")]
    built = [words[words.index("-f") + 1] for words in commands if words[1] == "build"]
    assert sorted(built) == [f"packaging/{name}" for name in DOCKERFILES]
    tags = {words[words.index("-t") + 1] for words in commands if words[1] == "build"}
    runs = [words for words in commands if words[1] == "run"]
    assert len(runs) == 2
    for words in runs:
        assert words[words.index("-p") + 1] == "127.0.0.1:8000:8000"
        assert words[-1] in tags


def test_the_service_starts_what_there_is_and_lets_requests_finish():
    lines = (PACKAGING / "mome-serve.service").read_text(encoding="utf-8").splitlines()
    pairs = dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")
    check_serve(shlex.split(pairs["ExecStart"]))
    assert pairs["DynamicUser"] == pairs["NoNewPrivileges"] == "yes"
    assert pairs["ProtectSystem"] == "strict"
    assert int(pairs["TimeoutStopSec"]) >= 300  # of --max-time
    assert "packaging/mome-serve.service" in SERVING
