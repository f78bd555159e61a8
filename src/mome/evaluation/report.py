"""Result files: what was run with what, and what came out."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mome.evaluation.normalizers import Normalizer
from mome.evaluation.result import Result
from mome.files import disk_errors, write_text


def run_document(*, command: str, model: str | None, data: str, seed: int) -> dict[str, Any]:
    """What is needed to repeat a run: the arguments, and the versions of what ran; see :func:`results_document`."""
    versions = {name: version(name) for name in ("mome", "torch", "transformers")}
    return {
        "command": command,
        "versions": {**versions, "python": platform.python_version()},
        "model": model,
        "data": data,
        "seed": seed,
    }


def results_document(
    results: Sequence[Result],
    *,
    command: str,
    model: str | None,
    data: str,
    seed: int,
    normalize: Normalizer = "lower",
    interrupted: bool = False,
) -> dict[str, Any]:
    """One document that says all that is needed to repeat a run.

    Args:
        results: the outcomes.
        command: the command line.
        model: folder or hub id; ``None`` for transcripts made elsewhere.
        data: the manifest.
        seed: of noise and intervals.
        normalize: the form in which transcripts were compared.
        interrupted: whether clips are missing because the run was stopped.
    """
    return {
        **run_document(command=command, model=model, data=data, seed=seed),
        "normalize": normalize,
        "interrupted": interrupted,
        "results": [result.to_json() for result in results],
    }


def write_json(path: str | Path, document: dict[str, Any]) -> None:
    """Write a document whole or not at all, its folder made if missing.

    Raises:
        MomeError: the file cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
