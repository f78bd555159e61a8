"""What the analyses that evaluate have in common: clips, models by short names, cells of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mome.errors import MomeError

if TYPE_CHECKING:
    from mome.data.manifests import ManifestRow
    from mome.decoding import Transcriber


def read_rows(data: Path, split: str | None) -> list[ManifestRow]:
    """The clips of the manifest; those without speech are among them."""
    from mome.data.manifests import read_manifest

    return read_manifest(data, split, silence=True)


def short_names(models: Sequence[str]) -> list[str]:
    """Names for legends: the last part of each folder or hub id, or all of it where two would be called the same.

    Raises:
        MomeError: a model is given twice.
    """
    if len(set(models)) < len(models):
        twice = next(model for model in models if models.count(model) > 1)
        raise MomeError(f"model {twice} is given twice: give each model once")
    last = [Path(model).name or model for model in models]
    return [name if last.count(name) == 1 else model for name, model in zip(last, models, strict=True)]


def load_models(models: Sequence[str]) -> dict[str, Transcriber]:
    """Load models, by their short names."""
    from mome.cli.options import load_model

    return {name: load_model(model) for name, model in zip(short_names(models), models, strict=True)}


def percent(value: float | None) -> str:
    """A word error rate for a table."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(ends: Sequence[float | None] | None, *, signed: bool = False) -> str:
    """An interval in per cent for a table."""
    low, high = ends or (None, None)
    if low is None or high is None:
        return "-"
    return f"{100 * low:+.1f} - {100 * high:+.1f}" if signed else f"{100 * low:.1f} - {100 * high:.1f}"
