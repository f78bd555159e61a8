"""The README does what it says: marked examples run, and every command's options exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from mome.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"(<!-- tested -->\n)?```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
TESTED = [(language, code) for mark, language, code in FENCES if mark]


def commands() -> list[list[str]]:
    """Every call of ``mome`` in the README, as words."""
    text = "\n".join(code for _, language, code in FENCES if language == "bash").replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words and Path(words[0]).name == "mome"]


@pytest.mark.parametrize(("language", "code"), TESTED)
@pytest.mark.slow
def test_marked_examples_run(language: str, code: str, tmp_path: Path):
    if "synthesize" in code:
        pytest.importorskip("espeakng_loader")
    code = code.replace("/tmp/", f"{tmp_path}/")
    code = re.sub(r"^mome ", f"{sys.executable} -m mome ", code, flags=re.MULTILINE)
    (tmp_path / "src").symlink_to(ROOT / "src")  # what an example leaves where it runs is not left in the checkout
    words = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    run = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_shown_transcript_is_what_the_command_prints():
    shown = re.search(r"transcribe src/mome/demo/clip.mp4 --rates 4,2\n```\n+```text\n(.*?)\n```", README, re.DOTALL)
    assert shown is not None
    run = subprocess.run(
        [sys.executable, "-m", "mome", "transcribe", "src/mome/demo/clip.mp4", "--rates", "4,2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == shown.group(1).strip()


def test_every_command_and_option_exists():
    found = commands()
    assert len(found) >= 5
    for words in found:
        command = get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"mome {' '.join(words)}"
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word for word in words if word.startswith("--") or re.fullmatch(r"-[a-zA-Z]", word)}
        assert options <= known, f"{command.name}: {options - known}"


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
