"""The folder of a training run: the run it belongs to, its checkpoints, and the one to resume from.

A run writes down which checkpoints it makes before it makes them. It deletes those alone, and starts in no folder
where it would write over anything else.
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

RECIPE_FILE, RECORD, STATE = "recipe.yaml", "checkpoints.json", "trainer_state.json"
LENGTHS = ("optim.steps", "optim.epochs")  # what may be another when a run is resumed

# What a run and the parts of its model write. Anything else in the folder, such as a log, is none of its business.
_TEXTS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", RECIPE_FILE)
_WRITTEN = (*_TEXTS, "*.safetensors", "tensorboard", "checkpoint-*", *BACKBONES)
_KEPT = 2  # checkpoints
_CHECKPOINT = re.compile(r"checkpoint-\d+")


class RunFolder:
    """A folder that one run writes to.

    Args:
        path: the folder, made by :meth:`claim`.
    """

    def __init__(self, path: Path):
        self.path = path

    def claim(self, recipe: Recipe, resume: bool) -> Path | None:
        """Make the folder this run's.

        Returns:
            The last whole checkpoint, to go on from; ``None`` at the beginning.

        Raises:
            MomeError: it holds another run, something else that would be written over, a damaged checkpoint, or one
                without the run's recipe.
        """
        ours = self._recorded()
        with disk_errors(f"output={shortened(self.path, 200)}"):
            found = sorted({file.name for glob in _WRITTEN for file in self.path.glob(glob)})
        if ours is None and found:
            raise MomeError(
                f"{self.path} holds {found[0]} but no {RECORD}, so it is not known which run wrote it: choose another "
                "output=FOLDER"
            )
        foreign = [name for name in found if name.startswith("checkpoint-") and name not in (ours or [])]
        if foreign:
            raise MomeError(
                f"{self.path / foreign[0]} was not written by the run in this folder: move it elsewhere, or choose "
                "another output=FOLDER"
            )
        if not resume and (ours or "config.json" in found):
            raise MomeError(f"{self.path} already holds a training run: add --resume, or choose another output=FOLDER")
        checkpoint, cut_off = self._last(ours or []) if resume else (None, [])
        if resume and RECIPE_FILE in found:
            self._compare(recipe, checkpoint)
        elif checkpoint is not None:
            raise MomeError(
                f"{self.path / RECIPE_FILE} is missing, so it is not known what {checkpoint.name} was trained by: put "
                "it back, or choose another output=FOLDER"
            )
        with disk_errors(f"output={shortened(self.path, 200)}"):
            for folder in cut_off:  # now that nothing is refused any more
                logger.warning("%s was cut off while it was written: deleted", folder)
                shutil.rmtree(folder)
            self.path.mkdir(parents=True, exist_ok=True)
            self._record([path.name for path in _by_step(self.path, ours or [])])
            write_text(self.path / RECIPE_FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(recipe))))
        return checkpoint

    def announce(self, checkpoint: str) -> None:
        """Write down that a checkpoint is about to be made, and forget those that are no more."""
        self._record([path.name for path in _by_step(self.path, self._recorded() or [])] + [checkpoint])

    def keep(self, best: str | None) -> None:
        """Delete the run's oldest checkpoints until two are left, but neither the last nor the best."""
        ours = _by_step(self.path, self._recorded() or [])
        kept = {ours[-1].name, Path(best or ours[-1]).name}
        surplus = [checkpoint for checkpoint in ours if checkpoint.name not in kept and not checkpoint.is_symlink()]
        for checkpoint in surplus[: max(len(ours) - max(_KEPT, len(kept)), 0)]:
            shutil.rmtree(checkpoint)

    def last(self) -> Path | None:
        """The last whole checkpoint that the run wrote, if there is one."""
        newest_first = reversed(_by_step(self.path, self._recorded() or []))
        return next((path for path in newest_first if _state(path) is not None), None)

    def _record(self, checkpoints: list[str]) -> None:
        write_text(self.path / RECORD, json.dumps(checkpoints))

    def _recorded(self) -> list[str] | None:
        """Names of the checkpoints that the run wrote; ``None`` if there is no run in the folder."""
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

    def _last(self, ours: list[str]) -> tuple[Path | None, list[Path]]:
        """The last whole checkpoint, and those after it that were cut off while they were written."""
        cut_off: list[Path] = []
        for checkpoint in reversed(_by_step(self.path, ours)):
            if _state(checkpoint) is not None:
                _verify(checkpoint)
                return checkpoint, cut_off
            cut_off.append(checkpoint)
        return None, cut_off

    def _compare(self, recipe: Recipe, checkpoint: Path | None) -> None:
        """Refuse a recipe that is another than the run's but for its length."""
        file = self.path / RECIPE_FILE
        before, now = _flat(asdict(load_recipe(file))), _flat(asdict(recipe))
        changed = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
        changed = sorted(key for key in changed if key not in (*LENGTHS, "output"))
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
    """Those of the checkpoints that are there, the first one first."""
    return sorted((folder / name for name in names if (folder / name).is_dir()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _state(checkpoint: Path) -> TrainerState | None:
    """What was done until a checkpoint; ``None`` of one cut off while it was written: the Trainer writes this last.

    Raises:
        MomeError: the file is there, but it is not what the Trainer writes.
    """
    file = checkpoint / STATE
    if not file.exists():
        return None
    try:
        state: TrainerState = TrainerState.load_from_json(str(file))
        intact = _is_state(state) and state.global_step == _step(checkpoint)
    except Exception as error:  # of whatever kind: the class takes what it is given
        raise damaged(file) from error
    if not intact:
        raise damaged(file)
    return state


def _is_state(state: TrainerState) -> bool:
    """Whether what a run goes on with is of the kinds that the Trainer writes."""
    # A best error rate may be infinite, the other numbers may not.
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
        except Exception:  # of whatever kind: a damaged archive can claim any compression, or encryption
            intact = False
        if not intact:
            raise damaged(file)


def damaged(file: Path) -> MomeError:
    """The mistake of resuming from a file of a checkpoint that cannot be read."""
    return MomeError(f"{file} is missing or damaged: delete {file.parent} to go on from the checkpoint before it")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Save a processor to a folder; :class:`MomeError` where it cannot be written."""
    try:
        processor.save_pretrained(folder)
    except Exception as error:  # of whatever kind: the library in which tokenizers are written raises that itself
        raise MomeError(f"the processor in {folder} cannot be written: {shortened(error, 120)}") from error
