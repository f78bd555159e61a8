"""The search for inputs that end badly: what it tells apart, and a little of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripts.fuzz import mutate, sandbox

ROOT = Path(__file__).parents[2]
PARTS = {"media": 24, "folders": 10, "settings": 20, "checkpoints": 8}


def silent() -> None:
    sys.exit(2)


def refused() -> None:
    print("mome: no such thing")
    sys.exit(2)


def greedy() -> None:
    print(len(b"x" * 1_000_000_000))


ENDS = {
    "right": lambda: None,
    "refused": refused,
    "traceback": lambda: 1 / 0,
    "crash": os.abort,
    "hang": lambda: time.sleep(60),
    "memory": greedy,
    "silent": silent,
}


@pytest.mark.parametrize("end", ENDS)
def test_how_a_case_ends_is_told_apart(tmp_path, monkeypatch, end):
    monkeypatch.setattr(sandbox, "SECONDS", 2.0 if end == "hang" else 20.0)
    forked = sandbox.run(ENDS["right"], tmp_path).megabytes  # what a fork of this process begins with
    monkeypatch.setattr(sandbox, "MEGABYTES", forked + 200)
    outcome = sandbox.run(ENDS[end], tmp_path)
    assert outcome.end == end
    assert ("most recent call first" in outcome.output) == (end in ("crash", "hang"))


def test_a_case_is_made_from_its_seed_alone():
    def bytes_of(seed: int) -> bytes:
        return mutate.damage(bytes(range(256)) * 20, np.random.default_rng([seed, 1]), b"other")

    assert bytes_of(3) == bytes_of(3)
    assert len({bytes_of(seed) for seed in range(50)}) > 45


def test_changed_values_leave_the_original_alone():
    values = {"a": [1, {"b": 2}], "c": "d"}
    changed = [mutate.change(values, np.random.default_rng(seed), {"e": 1}) for seed in range(20)]
    assert values == {"a": [1, {"b": 2}], "c": "d"}
    assert sum(one != values for one in changed) > 15


@pytest.mark.slow
def test_a_short_search_finds_nothing(tmp_path):
    wanted = [f"{kind}={count}" for kind, count in PARTS.items()]
    command = [sys.executable, "-m", "scripts.fuzz.run", *wanted, "--seed", "7", "--keep", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    document = json.loads(ran.stdout)
    assert document["faults"] == [], "\n".join(path.read_text() for path in tmp_path.rglob("log"))
    assert ran.returncode == 0
    assert {kind: found["cases"] for kind, found in document["kinds"].items()} == PARTS
    # Damage that is always refused, or never, would show little.
    assert all(found["refused"] > found["cases"] / 10 for found in document["kinds"].values())
    assert document["kinds"]["media"]["right"] > 2
