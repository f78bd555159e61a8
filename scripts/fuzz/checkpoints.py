"""Checkpoints of other programs: files of PyTorch, damaged or of other content, given to the converter."""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scripts.fuzz.mutate import ODD, Random, damage, pick
from scripts.fuzz.sandbox import command

_KINDS = ("av-hubert", "llama-avsr", "llama-mtsk", "omni-avsr", "llama-smop")


class _Hostile:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("the code of the file ran",)


@functools.cache
def seeds() -> list[bytes]:
    """A state of the published kinds' names, in both formats of PyTorch, and pickles of other things."""
    names = ("encoder.layers.0.fc1.weight", "audio_proj.0.weight", "llm.model.layers.0.self_attn.q_proj.weight")
    state = {name: torch.ones(4, 4) for name in names}
    files = []
    for content in (
        {"model": state},
        {"state_dict": state, "cfg": {"model": {"encoder_layers": 2}}},
        state,
        [state],
        7,
    ):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            files.append(buffer.getvalue())
    files += [pickle.dumps(_Hostile()), pickle.dumps({"model": _Hostile()}), pickle.dumps(list(map(str, ODD)))]
    buffer = io.BytesIO()
    torch.save({"model": _Hostile()}, buffer)
    return [*files, buffer.getvalue()]


def make(rng: Random, folder: Path) -> tuple[Callable[[], None], str]:
    """A damaged file in ``folder``; its conversion, and what it was made of."""
    number = int(rng.integers(len(seeds())))
    data = seeds()[number]
    if rng.random() < 0.8:
        data = damage(data, rng, pick(rng, seeds()))
    path = folder / pick(rng, ("model.pt", "model.ckpt", "pytorch_model.bin", "model.safetensors"))
    path.write_bytes(data)
    kind = pick(rng, _KINDS)
    return command("convert", kind, str(path), str(folder / "out")), f"{kind} from seed file {number}"
