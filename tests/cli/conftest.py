"""Runs the command line in this process, on small clips made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner, Result

from mome.cli import app
from tests.media.builders import write

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Commands silence Transformers."""
    verbosity = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()


@pytest.fixture
def run() -> Run:
    """``run("transcribe", clip, …)`` → exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run what must be refused: exit code 2, nothing on stdout and one line on stderr, which is returned."""

    def call(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr.strip()

    return call


def _speech(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype(np.float32)


def _mouth(frames: int) -> list[np.ndarray]:
    return [np.full((96, 96), 40 + 5 * (k % 30), np.uint8) for k in range(frames)]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: talk.mkv (lips and sound), talk.wav (sound), mute.mkv (lips), noise.wav, and broken files."""
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "talk.mkv", _mouth(30), wave=_speech(1.2))
    write(folder / "talk.wav", wave=_speech(1.2))
    write(folder / "mute.mkv", _mouth(30))
    write(folder / "noise.wav", wave=_speech(3.0, seed=1))
    write(folder / "empty.wav", wave=_speech(0.0))
    write(folder / "silent.wav", wave=np.zeros(16_000, np.float32))
    (folder / "text.mp4").write_text("this is no film\n")
    (folder / "cut.mkv").write_bytes((folder / "talk.mkv").read_bytes()[:200])
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "folder").mkdir()
    return folder
