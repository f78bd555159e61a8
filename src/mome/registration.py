"""Makes Transformers' Auto classes know the models of this package, without importing either before it is needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_IMPORTING = ("transformers.", "mome.")
_AUTO = tuple(f"transformers.models.auto.{name}_auto" for name in ("configuration", "modeling", "processing"))


def register() -> None:
    """Import ``mome.model``, which registers its classes, as soon as one of the Auto classes is there.

    Both take seconds, and much of what this package offers needs neither.
    """
    if any(name in sys.modules for name in _AUTO):
        importlib.import_module("mome.model")
    else:
        sys.meta_path.insert(0, _AfterAuto())


class _AfterAuto(MetaPathFinder):
    """Finds modules of Transformers and of this package as other finders do, and has ``mome.model`` imported after.

    Any of them may be what imports the Auto classes, in the middle of its own code and in that of others, so it waits
    until no import of one is under way.
    """

    def __init__(self) -> None:
        self._under_way = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_IMPORTING):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._under_way += 1
            try:
                execute(module)
            finally:
                self._under_way -= 1
            if not self._under_way and self in sys.meta_path and any(name in sys.modules for name in _AUTO):
                sys.meta_path.remove(self)
                importlib.import_module("mome.model")

        loader.exec_module = exec_module
