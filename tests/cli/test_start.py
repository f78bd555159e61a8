"""Start-up, help and usage errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mome
from mome.cli import transcribe as transcribe_module
from tests.media.builders import write

COMMANDS = (
    ("transcribe",),
    ("serve",),
    ("demo",),
    ("evaluate",),
    ("score",),
    ("train",),
    ("sweep",),
    ("report",),
    ("inspect",),
    ("convert",),
    ("data",),
    ("data", "synthesize"),
    ("data", "folder"),
    ("data", "grid"),
    ("analyze",),
    ("analyze", "experts"),
    ("analyze", "similarity"),
    ("analyze", "attention"),
    ("analyze", "cost"),
    ("analyze", "rates"),
    ("analyze", "noise"),
    ("analyze", "top-k"),
)
HEAVY = ("torch", "transformers", "numpy", "cv2", "av", "scipy", "jiwer", "huggingface_hub", "omegaconf")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['mome', '--help']\n"
        "from mome.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "transcribe" in done.stdout


def test_help_answers_at_once():
    program = Path(sys.executable).with_name("mome")
    if not program.exists():
        pytest.skip("the package is not installed")
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([program, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 1.5


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(run, command):
    for flag in ("--help", "-h"):
        result = run(*command, flag)
        assert result.exit_code == 0
        assert len(result.stdout) > 300
        assert result.stderr == ""


def test_without_a_command_the_help_is_shown(run):
    assert run().stdout == run("--help").stdout
    assert run("data").stdout == run("data", "--help").stdout


def test_version(run):
    assert run("--version").stdout == f"mome {mome.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trancribe"], "transcribe"),
        (["transcribe"], "INPUT"),
        (["transcribe", "a.mp4", "--rate", "4,2"], "--rates"),
        (["transcribe", "a.mp4", "--format", "xml"], "srt"),
        (["transcribe", "a.mp4", "--beams", "0"], "--beams"),
        (["evaluate"], "--data"),
        (["score", "a.csv"], "--data"),
        (["train"], "RECIPE"),
        (["sweep"], "FILE"),
        (["sweep", "a.yaml", "--jobs", "0"], "--jobs"),
        (["report"], "DIR"),
        (["transcribe", "a.mp4", "--top-k", "0"], "--top-k"),
        (["data", "folder", "."], "--out"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(refused, arguments, hint):
    line = refused(*arguments)
    assert hint in line
    assert "--help" in line


def test_interruption_has_its_own_exit_code(run, monkeypatch):
    def interrupted(model: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transcribe_module, "read_config", interrupted, raising=True)
    result = run("transcribe", "a.mp4")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "mome: interrupted\n")


def test_interrupted_training_says_how_to_go_on(run, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mome.training.run.train", interrupted)
    result = run("train", "mome-layer-grid")
    assert result.exit_code == 130
    assert result.stderr.count("\n") == 1
    assert "--resume" in result.stderr


def test_interrupted_before_anything_is_imported():
    code = (
        "import importlib.abc, sys\n"
        "class Interrupted(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.argv = ['mome']; sys.meta_path.insert(0, Interrupted())\n"
        "from mome.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_ends_a_command_in_one_line(clips, tmp_path, how):
    """What is finished is printed; the other files take long."""
    long = write(tmp_path / "long.wav", wave=np.random.default_rng(0).standard_normal(16_000 * 9).astype(np.float32))
    code = "import sys; from mome.cli import main; main()"
    files = [clips / "talk.wav", *[long] * 400]
    command = [sys.executable, "-c", code, "transcribe", *map(str, files), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "demonstration" in process.stderr.readline()  # the note before the first result
    time.sleep(0.5)
    process.send_signal(how)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "mome: interrupted"
    document = json.loads(out)
    assert document["interrupted"] is True
    assert [one["file"] for one in document["results"]][:1] == [str(files[0])]
    assert len(document["results"]) < len(files)


def test_a_bug_is_not_swallowed(run, monkeypatch):
    def broken(model: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(transcribe_module, "read_config", broken)
    with pytest.raises(ZeroDivisionError):
        run("transcribe", "a.mp4")


def test_a_closed_pipe_is_quiet():
    code = "import sys; sys.argv = ['mome', 'data', 'synthesize', '--voices']\nfrom mome.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert errors == b""
