from __future__ import annotations

import sys
import types

import pytest


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Classes under the names in published files; they can be imported within the test only."""
    classes = {}
    for module, name in (
        ("fairseq.data.dictionary", "Dictionary"),
        ("fairseq.data.encoders.sentencepiece_bpe", "SentencepieceBPE"),
        ("sentencepiece", "SentencePieceProcessor"),
    ):
        made = type(name, (), {"__module__": module})
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):  # importing a module imports those that it is in
            parent = ".".join(parts[:depth])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setattr(sys.modules[module], name, made, raising=False)
        classes[name] = made
    classes["SentencePieceProcessor"].__getstate__ = lambda self: b"\x00\xffbytes"  # type: ignore[attr-defined]
    return classes
