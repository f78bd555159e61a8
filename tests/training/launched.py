"""Several trainings, as each of the processes that torchrun starts runs them.

For each, it notes the clips that the process stores and its shares of the frozen weights.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore

from mome.data import clips
from mome.training import trainer
from mome.training.run import train


def store(job: clips._Job) -> clips._Stored:
    with (folder / f"stored-{rank}.txt").open("a") as file:
        print(job.row.id, file=file)
    return original_store(job)


def wrap(model: Any, *args: Any) -> Any:
    held = sum(value.to_local().numel() for value in model.parameters() if hasattr(value, "to_local"))
    (folder / f"held-{rank}.txt").write_text(str(held))
    return original_wrap(model, *args)


def keys(*args: Any, **options: Any) -> PrefixStore:
    """Each training has its own: in those of the one before are addresses of threads that have ended."""
    return PrefixStore(folder.name, original_keys(*args, **options))


rendezvous = import_module("torch.distributed.rendezvous")  # whose name in the package is a function's
rank = os.environ["RANK"]
original_store, original_wrap, original_keys = clips._store_clip, trainer.wrap, rendezvous._create_c10d_store
clips._store_clip, trainer.wrap, rendezvous._create_c10d_store = store, wrap, keys
gc.freeze()  # each training collects garbage, which none of what is imported is
for name, arguments in json.loads(Path(sys.argv[1]).read_text()):
    folder = Path(name)
    train(*arguments)
