"""A training run's output on stderr: progress bars and losses."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

_SHOWN = ("loss", "learning_rate", "router/entropy", "router/max_load", "epoch")


class Bars:
    """Progress bars on stderr, one for each kind of work."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` clips are done."""
        if what not in self.bars:
            self.bars[what] = tqdm(total=total, desc=what, unit="clip")
        bar = self.bars[what]
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    def close(self) -> None:
        """Close the bars, because an open one is drawn again below later messages."""
        for bar in self.bars.values():
            bar.close()


class StderrProgress(ProgressCallback):
    """Transformers' progress bar with the main values of each log, on stderr instead of stdout.

    TensorBoard and ``history.json`` have the complete logs.
    """

    def close(self) -> None:
        """Close the bar if an error ended the training."""
        if self.training_bar is not None:
            self.training_bar.close()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss, the router's state and the word error rates of a validation."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        shown = {name: value for name, value in (logs or {}).items() if name in _SHOWN or name.startswith("eval_wer")}
        if set(shown) - {"epoch"}:
            line = "  ".join(f"{name.removeprefix('eval_')} {float(value):.4g}" for name, value in shown.items())
            tqdm.write(f"step {state.global_step}: {line}", file=sys.stderr)
