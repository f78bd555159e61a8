"""``mome sweep``: tiny models, interruption and going on; failures; files that are no sweep."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from mome.analysis import sweep as module
from mome.data.clips import ClipStore
from mome.data.manifests import read_manifest
from mome.decoding import load
from mome.evaluation.evaluate import Evaluation
from mome.evaluation.losses import transcript_losses
from mome.rates import Rates
from mome.training import load_recipe
from tests.tiny import tiny_model
from tests.training.toy import toy_backbones, toy_corpus, toy_recipe

SWEEP = """
base: {base}
fixed: {{optim.epochs: {epochs}, optim.log_steps: 2, validation.every_steps: 2}}
rows: {{control: {{}}, narrow: {{model.adapter.bottleneck: 1}}}}
evaluate: {{manifest: {manifest}, split: test, rates: ["16,5"]}}
output: {output}
"""

HEADER = ("row", "rates", "seeds", "WER %", "WER change (95 %)", "loss", "loss change (95 %)")


@pytest.fixture
def file(clips: Path, tmp_path: Path) -> Path:
    manifest, path = tmp_path / "clips.csv", tmp_path / "sweep.yaml"
    texts = {"one": "bin blue at f two now", "two": "set white in b six please"}
    rows = [f"{name},{clips / 'talk.mkv'},test,{text}" for name, text in texts.items()]
    manifest.write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    path.write_text(SWEEP.format(base="mome-layer-grid", epochs=1, manifest=manifest, output=tmp_path / "out"))
    return path


class Here:
    """In place of the context that starts processes: each runs in this process, when it is started."""

    Pipe = staticmethod(multiprocessing.Pipe)
    interrupted = False

    def __init__(self, kind: str) -> None:
        assert kind == "spawn"

    class Process:
        """Holds what is to be done."""

        def __init__(self, target: Any, args: tuple[Any, ...]) -> None:
            self.target, self.args = target, args

        def start(self) -> None:
            """Ctrl-C reaches both, the process and the one that started it."""
            self.target(*self.args)
            if Here.interrupted:
                Here.interrupted = False
                raise KeyboardInterrupt

        exitcode = -9

        def join(self) -> None:
            """There is nothing to wait for."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Runs stay in this process, and training gives random models; the names of those that are trained."""
    names: list[str] = []

    def train(base: str, overrides: list[str], resume: bool) -> Path:
        assert resume, "a training that was interrupted goes on from its checkpoint"
        output = Path(overrides[-1].removeprefix("output="))
        names.append(output.name)
        tiny_model(output, seed=len(names))
        (output / "recipe.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(load_recipe(base, overrides)))))
        return output

    monkeypatch.setattr(module, "multiprocessing", SimpleNamespace(get_context=Here))
    monkeypatch.setattr(module, "train", train)
    before = signal.getsignal(signal.SIGTERM)
    yield names
    signal.signal(signal.SIGTERM, before)


def test_an_interrupted_sweep_goes_on_and_does_nothing_twice(run, file, trained, tmp_path, monkeypatch):
    results = tmp_path / "out" / "results"
    evaluations: list[int] = []
    evaluate = Evaluation.run

    def interrupted_once(evaluation: Evaluation, *progress: Any) -> None:
        evaluations.append(len(evaluations))
        if len(evaluations) == 2:
            Here.interrupted = True
            raise KeyboardInterrupt
        evaluate(evaluation, *progress)

    monkeypatch.setattr(Evaluation, "run", interrupted_once)
    stopped = run("sweep", file)
    assert (stopped.exit_code, stopped.stdout) == (130, ""), stopped.output
    begin, line, end = stopped.stderr.splitlines()
    assert (begin, end) == ("2 of 2 runs to do", "mome: interrupted: the same command goes on")
    assert line.startswith("[1 of 2] control-1: WER % ")
    assert trained == ["control-1", "narrow-1"]
    assert [path.name for path in results.iterdir()] == ["control-1.json"]

    done = run("sweep", file)
    assert done.exit_code == 0
    assert trained == ["control-1", "narrow-1"], "the second was trained, and only to be evaluated"
    assert len(evaluations) == 3
    begin, line, *written = done.stderr.splitlines()
    assert begin == "1 of 2 runs to do"
    assert line.startswith("[2 of 2] narrow-1: WER % ")
    assert written == [f"wrote {tmp_path / 'out' / name}" for name in ("sweep.json", "sweep.csv")]
    header, _, control, narrow = done.stdout.splitlines()
    assert re.split(r"  +", header.strip()) == list(HEADER)
    assert control.split()[:3] == ["control", "16,5", "1"]
    assert (control.split()[4], control.split()[6:]) == ("-", ["-"])
    assert narrow.split()[:3] == ["narrow", "16,5", "1"]
    assert narrow.split().count("to") == 2

    document = json.loads((results / "narrow-1.json").read_text())
    assert "model.adapter.bottleneck=1" in document["command"]
    wers = {name: json.loads((results / f"{name}-1.json").read_text())["results"][0]["wer"] for name in
            ("control", "narrow")}  # fmt: skip
    again = run("sweep", file, "--json")
    assert again.stderr.splitlines()[0] == "0 of 2 runs to do"
    assert (len(trained), len(evaluations)) == (2, 3)
    cells = json.loads(again.stdout)["results"]
    assert {cell["row"]: cell["wer"] for cell in cells} == wers
    assert cells[1]["change"] == pytest.approx(wers["narrow"] - wers["control"])
    assert cells[1]["loss_change"] == pytest.approx(cells[1]["loss"] - cells[0]["loss"])
    with (tmp_path / "out" / "sweep.csv").open(newline="") as table:
        assert [row["row"] for row in csv.DictReader(table)] == ["control", "narrow"]


def test_losses_alone_of_the_clips_that_can_be_read(run, file, trained, tmp_path, monkeypatch):
    manifest, broken = tmp_path / "clips.csv", tmp_path / "broken.mp4"
    broken.write_text("no film")
    manifest.write_text(f"{manifest.read_text()}three,{broken},test,lay red\n")
    text = file.read_text().replace('rates: ["16,5"]', 'rates: ["16,5", "4,-"], transcripts: false')
    file.write_text(text.replace("fixed: {", "fixed: {optim.tasks: [avsr, asr], "))
    monkeypatch.setattr(Evaluation, "run", None)  # it would fail
    done = run("sweep", file, "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[1].startswith("[1 of 2] control-1: loss ")
    assert "three is left out: " in (tmp_path / "out" / "runs" / "control-1.log").read_text()
    document, rows = json.loads(done.stdout), read_manifest(manifest, "test")[:2]
    store, rates = ClipStore(tmp_path / "store", audio=True, video=True), [Rates(16, 5), Rates(4, None)]
    models = [load(tmp_path / "out" / "runs" / name) for name in ("control-1", "narrow-1")]
    losses = [transcript_losses(model, rows, rates, store).means() for model in models]
    found = {(cell["row"], cell["rates"]): cell for cell in document["results"]}
    for name, ours, theirs in (("control", losses[0], None), ("narrow", losses[1], losses[0])):
        for rate in ("16,5", "4,-"):
            cell = found[name, rate]
            assert (cell["wer"], cell["change"]) == (None, None)
            assert cell["loss"] == pytest.approx(ours[rate])
            assert cell["loss_change"] == (theirs and pytest.approx(ours[rate] - theirs[rate]))


def test_what_was_trained_with_other_settings_is_refused(run, file, trained, tmp_path):
    assert run("sweep", file).exit_code == 0
    file.write_text(file.read_text().replace("optim.epochs: 1", "optim.epochs: 2"))
    result_file = tmp_path / "out" / "results" / "control-1.json"
    line = run("sweep", file).stderr.splitlines()[-1]
    assert f"{result_file} is of other settings" in line
    assert f"delete it with {tmp_path / 'out' / 'runs' / 'control-1'}" in line
    for each in result_file.parent.iterdir():
        each.unlink()
    again = run("sweep", file)
    assert again.exit_code == 1
    assert f"{tmp_path / 'out' / 'runs' / 'control-1'} was trained with other settings than the sweep's" in again.stderr
    assert trained == ["control-1", "narrow-1"]


def test_a_run_that_fails_does_not_stop_the_others(run, file, trained, tmp_path, monkeypatch):
    def fails(sweep: module.Sweep, one: module.Run) -> str:
        if one.row == "control":
            raise RuntimeError("out of\nmemory")
        result = {"rates": "16,5", "wer": 0.25, "clip_ids": ["a"], "clip_errors": [1], "clip_words": [4]}
        target = sweep.result_file(one)
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps({"results": [result], "training": module._training(sweep, one)}))
        return f"{one.name}: done"

    monkeypatch.setattr(module, "do_run", fails)
    result = run("sweep", file, "--json")
    assert result.exit_code == 1
    assert "control-1 failed: out of memory; about " in result.stderr
    assert [(cell["row"], cell["change"]) for cell in json.loads(result.stdout)["results"]] == [("narrow", None)]


def test_a_process_that_is_killed_is_a_failure_of_its_run(run, file, trained, monkeypatch):
    monkeypatch.setattr(Here.Process, "start", lambda process: None)
    result = run("sweep", file, "--json")
    assert (result.exit_code, json.loads(result.stdout)["results"]) == (1, [])
    assert "[2 of 2] narrow-1 failed: its process ended with exit code -9; about 0 min left" in result.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base: [\n", "is not readable YAML: see line 2, column 1"),
        ("- base\n", "is not a mapping of keys to values"),
        ("", "lacks base: add it"),
        ("base: !!python/object/apply:os.system [ls]\n", "line 1: a tag that recipes do not have"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv}\nseed: [1]\n", "unknown key seed: known here: base, fixed"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv}\nrows: {a: {optim.epoch: 1}}\n", "did you mean optim.epochs"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv, split: 1}\n", "evaluate: split is not of the kind str"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv}\n", "gone.csv does not exist"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv}\nseeds: []\n", "seeds is not a list of whole numbers"),
        ("base: mome-tiny\nevaluate: {manifest: gone.csv}\nseeds: [1, 1]\n", "seeds has one of them twice"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line_before_any_training(refused, tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    line = refused("sweep", "bad.yaml")
    assert line.startswith("mome: ")
    assert reason in line
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(run, tmp_path):
    manifest, file = toy_corpus(tmp_path / "data"), tmp_path / "sweep.yaml"
    recipe = toy_recipe(tmp_path, manifest, toy_backbones(tmp_path / "backbones"), tmp_path / "unused")
    sweep = SWEEP.format(base=recipe, epochs=2, manifest=manifest, output=tmp_path / "out")
    sweep = sweep.replace(", narrow: {model.adapter.bottleneck: 1}", "")
    file.write_text(sweep.replace("fixed: {", "fixed: {validation.rates: [], "))
    code = "import sys; from mome.cli import main; main()"
    command = [sys.executable, "-c", code, "sweep", str(file)]
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, start_new_session=True, env=environment, **options)
    first = tmp_path / "out" / "runs" / "control-1"
    deadline = time.time() + 300
    while not list(first.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    printed, lines = process.communicate(timeout=120)
    assert (process.returncode, printed) == (130, "")
    assert lines.splitlines()[-1] == "mome: interrupted: the same command goes on"
    assert "Traceback" not in lines
    assert not (first / "config.json").exists()
    done = run("sweep", file)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["control"]
    history = json.loads((first / "history.json").read_text())
    steps = [entry["step"] for entry in history if "loss" in entry]
    assert steps == sorted(set(steps)), "the training went on where it was"
