from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from mome.training.progress import StderrProgress


def test_a_bar_and_short_logs_are_on_stderr_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    state, control = TrainerState(global_step=3, max_steps=8), TrainerControl()
    progress = StderrProgress()
    progress.on_log(args, state, control, {"loss": 1.0})  # before there is a bar: nothing is shown
    progress.on_train_begin(args, state, control)
    progress.on_step_end(args, state, control)
    progress.on_log(args, state, control, {"loss": 1.5, "loss/4,2": 2.5, "epoch": 0.25, "eval_wer/4,2": 0.125})
    progress.on_log(args, state, control, {"epoch": 0.25, "train_runtime": 7.0})
    progress.close()
    shown = capsys.readouterr()
    assert "step 3: loss 1.5  epoch 0.25  wer/4,2 0.125\n" in shown.err
    assert shown.err.count("step 3: ") == 1
    assert "3/8" in shown.err
    assert not shown.out
