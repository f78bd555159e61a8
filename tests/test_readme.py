"""The README does what it says: marked examples run, and every command's options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from mome.cli import app
from tests.cli.conftest import Run, restored, run  # noqa: F401  fixtures

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
def test_marked_examples_run(language: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run):  # noqa: F811
    if "synthesize" in code:
        pytest.importorskip("espeakng_loader")
    (tmp_path / "src").symlink_to(ROOT / "src")  # what an example leaves where it runs is not left in the checkout
    monkeypatch.chdir(tmp_path)
    code = code.replace("/tmp/", f"{tmp_path}/")
    if language == "python":
        exec(compile(code, "README.md", "exec"), {})
        return
    for line in code.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "mome"
        result = run(*arguments)
        assert result.exit_code == 0, result.output


def test_the_shown_transcript_is_what_the_command_prints():
    shown = re.search(r"transcribe src/mome/demo/clip.mp4 --rates 4,2\n```\n+```text\n(.*?)\n```", README, re.DOTALL)
    assert shown is not None
    done = subprocess.run(
        [sys.executable, "-m", "mome", "transcribe", "src/mome/demo/clip.mp4", "--rates", "4,2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == shown.group(1).strip()


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
