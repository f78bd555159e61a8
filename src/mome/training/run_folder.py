"""The folder of a training run: whose run it is, its checkpoints, and the one to resume from.

A run records each checkpoint before it writes it. It deletes only recorded checkpoints, and refuses a folder in which
it would overwrite anything else.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from transformers import ProcessorMixin, TrainerState

from mome.config.fields import BACKBONES
from mome.errors import MomeError, shortened
from mome.files import disk_errors, write_text
from mome.training.loading import load_recipe
from mome.training.recipe import Recipe

logger = logging.getLogger(__name__)

RECIPE_FILE, RECORD, STATE, SKIPPED = "recipe.yaml", "checkpoints.json", "trainer_state.json", "skipped.csv"
UPDATE = "update.json"  # in a checkpoint: the number of batches of an update
CHANGEABLE = (
    *("optim.steps", "optim.epochs", "optim.report_to"),
    "optim.shard",
    *("data.skip_percent", "data.workers", "data.cache_folder"),
)  # keys that may change when a run is resumed: its length, and what the weights do not depend on

# Files that a run writes. Other files in the folder, such as logs, are ignored.
_TEXTS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", RECIPE_FILE, SKIPPED)
_WRITTEN = (*_TEXTS, "*.safetensors", "tensorboard", "checkpoint-*", *BACKBONES)
_KEPT = 2  # number of checkpoints
_CHECKPOINT = re.compile(r"checkpoint-\d+")


class RunFolder:
    """The folder that a run writes to.

    Args:
        path: the folder; :meth:`claim` makes it.
        kept: number of checkpoints that are kept, the last ones.
    """

    def __init__(self, path: Path, kept: int = 1):
        self.path, self.kept = path, kept

    def claim(self, recipe: Recipe, resume: bool) -> Path | None:
        """Make the folder, or check that it is this run's, and record the recipe there.

        Returns:
            The last complete checkpoint, to resume from; ``None`` if there is none.

        Raises:
            MomeError: the folder holds another run, files that would be overwritten, a damaged checkpoint, or a
                checkpoint without its recipe.
        """
        recorded = self._recorded()
        with disk_errors(f"output={shortened(self.path, 200)}"):
            found = sorted({file.name for glob in _WRITTEN for file in self.path.glob(glob)})
        if recorded is None and found:
            raise MomeError(
                f"{self.path} holds {found[0]} but no {RECORD}, so it is not known which run wrote it: choose another "
                "output=FOLDER"
            )
        foreign = [name for name in found if name.startswith("checkpoint-") and name not in (recorded or [])]
        if foreign:
            raise MomeError(
                f"{self.path / foreign[0]} was not written by the run in this folder: move it elsewhere, or choose "
                "another output=FOLDER"
            )
        if not resume and (recorded or "config.json" in found):
            raise MomeError(f"{self.path} already holds a training run: add --resume, or choose another output=FOLDER")
        checkpoint, cut_off = self._last(recorded or []) if resume else (None, [])
        if resume and RECIPE_FILE in found:
            self._compare(recipe, checkpoint)
        elif checkpoint is not None:
            raise MomeError(
                f"{self.path / RECIPE_FILE} is missing, so it is not known what {checkpoint.name} was trained by: put "
                "it back, or choose another output=FOLDER"
            )
        with disk_errors(f"output={shortened(self.path, 200)}"):
            for folder in cut_off:  # only after all checks have passed
                logger.warning("%s was cut off while it was written: deleted", folder)
                shutil.rmtree(folder)
            self.path.mkdir(parents=True, exist_ok=True)
            self._record([path.name for path in _by_step(self.path, recorded or [])])
            write_text(self.path / RECIPE_FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(recipe))))
        return checkpoint

    def announce(self, checkpoint: str) -> None:
        """Record a checkpoint that is about to be written, and drop deleted ones from the record."""
        self._record([path.name for path in _by_step(self.path, self._recorded() or [])] + [checkpoint])

    def keep(self, best: str | None) -> None:
        """Delete the run's oldest checkpoints until two are left, but neither the last ones nor the best."""
        checkpoints = _by_step(self.path, self._recorded() or [])
        kept = {*(path.name for path in checkpoints[-self.kept :]), Path(best or checkpoints[-1]).name}
        surplus = [folder for folder in checkpoints if folder.name not in kept and not folder.is_symlink()]
        for checkpoint in surplus[: max(len(checkpoints) - max(_KEPT, len(kept)), 0)]:
            shutil.rmtree(checkpoint)

    def last(self) -> Path | None:
        """The last complete checkpoint of the run, if there is one."""
        return next(reversed(self.complete()), None)

    def complete(self) -> list[Path]:
        """The complete checkpoints of the run, in the order of their steps."""
        return [path for path in _by_step(self.path, self._recorded() or []) if _state(path) is not None]

    def _record(self, checkpoints: list[str]) -> None:
        write_text(self.path / RECORD, json.dumps(checkpoints))

    def _recorded(self) -> list[str] | None:
        """Names of the recorded checkpoints; ``None`` if there is no run in the folder."""
        file = self.path / RECORD
        try:
            names = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise MomeError(f"{file} cannot be read: choose another output=FOLDER") from error
        if not isinstance(names, list) or not all(_CHECKPOINT.fullmatch(str(name)) for name in names):
            raise MomeError(f"{file} is not what a run wrote there: choose another output=FOLDER")
        return names

    def _last(self, recorded: list[str]) -> tuple[Path | None, list[Path]]:
        """The last complete checkpoint, and incomplete ones after it."""
        cut_off: list[Path] = []
        for checkpoint in reversed(_by_step(self.path, recorded)):
            if _state(checkpoint) is not None:
                _verify(checkpoint)
                return checkpoint, cut_off
            cut_off.append(checkpoint)
        return None, cut_off

    def _compare(self, recipe: Recipe, checkpoint: Path | None) -> None:
        """Raise :class:`MomeError` if the recipe differs from the run's in more than the length of the training."""
        file = self.path / RECIPE_FILE
        before, now = _flat(asdict(load_recipe(file))), _flat(asdict(recipe))
        changed = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
        changed = sorted(key for key in changed if key not in (*CHANGEABLE, "output"))
        if changed:
            key, more = changed[0], len(changed) - 1
            raise MomeError(
                f"{self.path} was trained by another recipe: {key} was {shortened(before.get(key))} and is "
                f"{shortened(now.get(key))}{f', and {more} more keys differ' if more else ''}: resume with the recipe "
                f"in {file}, or choose another output=FOLDER"
            )
        done = None if checkpoint is None else _state(checkpoint)
        if done is None:
            return
        for key, length, least in (
            ("optim.steps", recipe.optim.steps, done.global_step),
            ("optim.epochs", None if recipe.optim.steps else recipe.optim.epochs, done.epoch or 0),
        ):
            if length is not None and length < least:
                raise MomeError(f"{key}={length:g} is less than the {least:g} that {self.path} has been trained for")


def _by_step(folder: Path, names: list[str]) -> list[Path]:
    """Existing checkpoints among those named, in the order of their steps."""
    return sorted((folder / name for name in names if (folder / name).is_dir()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _state(checkpoint: Path) -> TrainerState | None:
    """A checkpoint's state of the Trainer; ``None`` if the checkpoint is incomplete, because this is written last.

    Raises:
        MomeError: the file exists but is damaged.
    """
    file = checkpoint / STATE
    if not file.exists():
        return None
    try:
        state: TrainerState = TrainerState.load_from_json(str(file))
        intact = _is_state(state) and state.global_step == _step(checkpoint)
    except Exception as error:  # of any kind, because the class does not check its arguments
        raise damaged(file) from error
    if not intact:
        raise damaged(file)
    return state


def _is_state(state: TrainerState) -> bool:
    """Whether the fields that a resumed run needs have the types that the Trainer writes."""
    # The best error rate may be infinite, the other numbers may not.
    return (
        all(type(value) is int and value >= 0 for value in (state.global_step, state.num_input_tokens_seen))
        and all(type(value) in (int, float) and math.isfinite(value) for value in (state.epoch, state.total_flos))
        and type(state.best_metric) in (int, float, type(None))
        and type(state.best_global_step) in (int, type(None))
        and type(state.best_model_checkpoint) in (str, type(None))
        and isinstance(state.log_history, list)
        and all(isinstance(entry, dict) for entry in state.log_history)
        and isinstance(state.stateful_callbacks, dict)
        and "TrainerControl" in state.stateful_callbacks
    )


def _verify(checkpoint: Path) -> None:
    """Raise :class:`MomeError` naming a file of a checkpoint that is missing or damaged."""
    generators = [file.name for file in checkpoint.glob("rng_state*.pth")] or ["rng_state.pth"]
    for name in ("optimizer.pt", "scheduler.pt", *generators):
        file = checkpoint / name
        try:
            with zipfile.ZipFile(file) as archive:
                intact = archive.testzip() is None
        except Exception:  # of any kind: a damaged archive can claim any compression or encryption
            intact = False
        if not intact:
            raise damaged(file)


def batches_of(checkpoint: Path, accumulate: int) -> int:
    """Batches of an update in the run that wrote a checkpoint, those of all processes together.

    Args:
        checkpoint: its folder.
        accumulate: batches of a process, for a checkpoint from before this was recorded.

    Raises:
        MomeError: the record is damaged.
    """
    file = checkpoint / UPDATE
    if not file.exists():
        return accumulate * len(list(checkpoint.glob("rng_state*.pth")))  # each process keeps its generator's state
    try:
        batches = json.loads(file.read_text(encoding="utf-8"))["batches"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(file) from error
    if type(batches) is not int or batches < 1:
        raise damaged(file)
    return batches


def damaged(file: Path) -> MomeError:
    """The error for a file of a checkpoint that cannot be read."""
    return MomeError(f"{file} is missing or damaged: delete {file.parent} to go on from the checkpoint before it")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Save a processor to a folder; raises :class:`MomeError` if it cannot be written."""
    try:
        processor.save_pretrained(folder)
    except Exception as error:  # the tokenizers library raises this class itself
        raise MomeError(f"the processor in {folder} cannot be written: {shortened(error, 120)}") from error
