"""What a sweep file says, what is done again, and how rows are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mome.analysis import sweep as module
from mome.analysis.sweep import Run, read_sweep, run_sweep, tabulate
from mome.errors import MomeError

FILE = """
base: mome-layer-grid
fixed: {optim.epochs: 3}
rows:
  control: {}
  lora: {model.adapter: {type: lora, bottleneck: 4}}
grid: {optim.learning_rate: [0.001, 0.002]}
seeds: [1, 2]
evaluate: {manifest: clips.csv, split: test, rates: ["4,2"]}
"""


def written(folder: Path, text: str = FILE) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(f"{text}\noutput: {folder}/out\n")
    return file


def result(sweep, run: Run, errors: list[int], clips: tuple[str, ...] = ("a", "b"), losses: tuple = ()) -> None:
    one = {"rates": "4,2", "wer": sum(errors) / 12, "clip_ids": clips, "clip_errors": errors, "clip_words": [6, 6]}
    if losses:  # of clips of 2 and 6 tokens
        mean = (2 * losses[0] + 6 * losses[1]) / 8
        one |= {"loss": mean, "scored_ids": clips, "clip_losses": losses, "clip_tokens": [2, 6]}
    document = {"results": [one], "training": module._training(sweep, run)}
    file = sweep.result_file(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def test_every_combination_with_the_first_seed_then_with_the_next_the_first_row_first(tmp_path):
    sweep = read_sweep(written(tmp_path))
    assert [(run.row, run.seed) for run in sweep.runs] == [
        (f"{row}, learning_rate {rate}", seed)
        for seed in (1, 2)
        for row in ("control", "lora")
        for rate in ("0.001", "0.002")
    ]
    assert sweep.runs[0].overrides == ("optim.epochs=3", "optim.learning_rate=0.001")
    assert sweep.runs[-1].overrides[1] == 'model.adapter={"type": "lora", "bottleneck": 4}'
    assert len({run.name for run in sweep.runs}) == 8


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("fixed:", "fixd:", "unknown key fixd"),
        ("base: mome-layer-grid\n", "", "lacks base"),
        ("manifest: clips.csv, ", "", "evaluate lacks manifest"),
        ("[0.001, 0.002]", "0.001", "grid.optim.learning_rate is not a list"),
        ("[1, 2]", "[x]", "seeds is not a list of whole numbers"),
        ("optim.epochs", "optim.epoch", "did you mean optim.epochs"),
        ("control: {}", "control: 3", "control is not keys with values"),
        ("mome-layer-grid", "mome-layr-grid", "did you mean mome-layer-grid"),
        ('["4,2"]', "[4,2]", "evaluate.rates is not a list of rates in quotes"),
        ('"4,2"', '"4;2"', "4;2"),
        ('"4,2"', '"3,2"', "evaluate.rates and the row control.*3,2"),
        ("4,2", "4,-", "the row control.* ask for asr"),
        ("bottleneck: 4}", "bottleneck: 4}, model.audio_rates: [16]", "the row lora.*4,2"),
        ("split: test", "batch: 0", "evaluate.batch is 0: give 1 or more"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_before_the_first_training(tmp_path, old, new, reason):
    assert old in FILE
    with pytest.raises(MomeError, match=reason):
        read_sweep(written(tmp_path, FILE.replace(old, new)))


def test_rows_are_compared_with_the_first_over_the_seeds_and_clips_of_both(tmp_path):
    sweep = read_sweep(written(tmp_path, FILE.replace("grid: {optim.learning_rate: [0.001, 0.002]}", "")))
    first, third, second, fourth = sweep.runs
    result(sweep, first, [1, 3], losses=(1.0, 2.0))
    result(sweep, second, [1, 1], losses=(3.0, 2.0))
    result(sweep, third, [2, 4], losses=(0.5, 1.5))
    result(sweep, fourth, [2, 2], losses=(2.5, 1.5))
    control, lora = tabulate(sweep).document["results"]
    assert [control["loss"], control["loss_change"], lora["loss"]] == [(14 / 8 + 18 / 8) / 2, None, 1.5]
    assert [lora["loss_change"], *lora["loss_change_ci95"]] == pytest.approx([-0.5] * 3), "half a nat less everywhere"
    assert (control["wer"], control["seeds"], control["change"]) == (pytest.approx(3 / 12), 2, None)
    assert lora["wer"] == pytest.approx(5 / 12)
    assert [lora["change"], *lora["change_ci95"]] == pytest.approx([2 / 12] * 3), "each clip has one error more"
    sweep.result_file(fourth).unlink()
    assert [tabulate(sweep).document["results"][1][name] for name in ("seeds", "change")] == [1, pytest.approx(2 / 12)]


def test_losses_weigh_tokens_and_those_that_were_not_measured_are_left_out(tmp_path):
    sweep = read_sweep(written(tmp_path, FILE.replace("grid: {optim.learning_rate: [0.001, 0.002]}", "")))
    first, second, third, fourth = sweep.runs
    result(sweep, third, [1, 3])
    result(sweep, fourth, [1, 3], losses=(9.0, 9.0))
    result(sweep, first, [1, 3], losses=(1.0, 2.0))
    result(sweep, second, [1, 3], losses=(2.0, 2.0))
    assert tabulate(sweep).document["results"][1]["loss_change"] == pytest.approx(2 / 8), "2 of 8 tokens, a nat each"
    result(sweep, second, [1, 3])
    sweep.result_file(fourth).unlink()
    lora = tabulate(sweep).document["results"][1]
    assert (lora["loss"], lora["loss_change"], lora["change"]) == (None, None, 0)


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(tmp_path):
    sweep = read_sweep(written(tmp_path))
    for run in sweep.runs:
        result(sweep, run, [0, 0])
    lines: list[str] = []
    assert run_sweep(sweep, note=lines.append) == 0
    assert lines == ["0 of 8 runs to do"]
    changed = read_sweep(written(tmp_path, FILE.replace("epochs: 3", "epochs: 4")))
    with pytest.raises(MomeError, match="is of other settings"):
        run_sweep(changed)


KILLED = """
import os, sys, time
from pathlib import Path
from mome.analysis import sweep

def training(*_):
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(120)

sweep.do_run, sweep._rows = training, lambda _: None
if __name__ == "__main__":
    run = sweep.Run("control", 1, ())
    sweep.run_sweep(sweep.Sweep("mome-tiny", (run,), {}, Path(sys.argv[1]).parent))
"""


@pytest.mark.slow
def test_a_training_ends_with_a_sweep_that_is_killed(tmp_path):
    script, begun = tmp_path / "killed.py", tmp_path / "begun"
    script.write_text(KILLED)
    sweeping = subprocess.Popen([sys.executable, script, begun])
    try:
        while not begun.exists() or not begun.read_text():
            assert sweeping.poll() is None
            time.sleep(0.05)
    finally:
        sweeping.kill()
        sweeping.wait()
    deadline = time.monotonic() + 20
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(int(begun.read_text())).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
