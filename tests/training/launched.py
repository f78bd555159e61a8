"""``mome train`` as each of several processes runs it; it notes the clips that the process stores, and its shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mome.cli.application import main
from mome.data import clips
from mome.training import trainer


def store(job: clips._Job) -> clips._Stored:
    with Path(f"{os.environ['STORED']}-{os.environ['RANK']}.txt").open("a") as file:
        print(job.row.id, file=file)
    return original(job)


def wrap(model: Any, *args: Any) -> Any:
    held = sum(value.to_local().numel() for value in model.parameters() if hasattr(value, "to_local"))
    Path(f"{os.environ['STORED']}-{os.environ['RANK']}-held.txt").write_text(str(held))
    return original_wrap(model, *args)


original, original_wrap = clips._store_clip, trainer.wrap
clips._store_clip, trainer.wrap = store, wrap
sys.argv[1:1] = ["train"]
main()
