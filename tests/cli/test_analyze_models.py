"""The analyses that read a model: experts, similarity and attention."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest


@pytest.fixture
def manifest(tmp_path: Path, clips: Path) -> Path:
    path = tmp_path / "clips.csv"
    rows = [f"{name},{clips / 'talk.mkv'},{split},{text}" for name, split, text in ROWS]
    path.write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    return path


ROWS = [
    ("one", "test", "bin blue at f two now"),
    ("two", "valid", "lay red by a one soon"),
    ("three", "test", "set white in b six please"),
]
FILES = {
    "experts": {"layers.csv", "experts.json"}
    | {
        f"{name}.{suffix}"
        for name in (
            "agreement",
            "experts-by-rate",
            *(f"experts-{kind}" for kind in ("audio", "video", "prompt", "transcript", "all")),
        )
        for suffix in ("csv", "png", "pdf")
    },
    "similarity": {f"similarity.{suffix}" for suffix in ("json", "csv", "png", "pdf")},
    "attention": {"attention.json"}
    | {f"{name}.{suffix}" for name in ("attention", "sinks") for suffix in ("csv", "png", "pdf")},
}


@pytest.mark.parametrize("command", FILES)
def test_files(run, tiny_model, manifest, tmp_path, command):
    out = tmp_path / "new" / "found"
    rates = ["--rates", "4,2", "--rates", "16,5"]
    options = ["--data", manifest, "--split", "test", *rates, "--batch", "1", "--json", "--out", out]
    done = run("analyze", command, tiny_model, *options)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert json.loads((out / f"{command}.json").read_text()) == document
    assert (document["model"], document["data"]) == (str(tiny_model), str(manifest))
    assert {file.name for file in out.iterdir()} == FILES[command]
    for file in out.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
    for file in out.glob("*.pdf"):
        assert file.read_bytes().startswith(b"%PDF")
    for file in out.glob("*.csv"):
        header, *rows = csv.reader(file.open())
        assert rows
        assert {len(row) for row in rows} == {len(header)}


def test_experts_prints_the_test(run, tiny_model, manifest):
    done = run("analyze", "experts", tiny_model, "--data", manifest, "--limit", "1", "--rates", "4,2", "--rates", "4,5")
    header, _, *lines = done.stdout.splitlines()
    assert "above chance" in header
    kinds = ("video", "prompt", "transcript", "all")  # audio tokens are the same
    assert [line.split()[0] for line in lines] == [kind for kind in kinds for _ in range(3)]
    assert lines[-1].endswith("of 2 layers")
    one = run("analyze", "experts", tiny_model, "--data", manifest, "--limit", "1", "--rates", "4,2")
    assert "nothing to compare" in one.stdout


def test_similarity_prints_matrices(run, tiny_model, manifest):
    done = run("analyze", "similarity", tiny_model, "--data", manifest, "--rates", "4,2", "--layer", "1")
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if "layer" in line] == [
        "correlation, layer 1",
        "CKA, layer 1",
    ]
    assert done.stdout.splitlines()[2].split()[:3] == ["audio", "4", "1.00"]


def test_attention_prints_models_side_by_side(run, tiny_model, manifest, tmp_path):
    (tmp_path / "other").symlink_to(tiny_model)
    arguments = [tiny_model, tmp_path / "other", "--data", manifest, "--limit", "1", "--rates", "4,-"]
    done = run("analyze", "attention", *arguments)
    header, _, one, other = done.stdout.splitlines()
    assert "transcript  first" in header
    assert one.split()[1:] == other.split()[1:]
    assert other.split()[0] == str(tmp_path / "other")


def test_refusals(refused, tiny_model, manifest, tmp_path):
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "adapter": None}))
    data = ["--data", manifest]
    assert "has no adapter, so there are no experts" in refused("analyze", "experts", tmp_path, *data)
    assert "layer 3 does not exist" in refused("analyze", "similarity", tiny_model, *data, "--layer", "3")
    assert "audio rates 4, 16" in refused("analyze", "attention", tiny_model, *data, "--rates", "5,2")
    assert "AUDIO,VIDEO" in refused("analyze", "experts", tiny_model, *data, "--rates", "four")
    assert "is a file" in refused("analyze", "experts", tiny_model, *data, "--out", manifest)
    assert "split 'none'" in refused("analyze", "attention", tiny_model, *data, "--split", "none")
    assert "gone" in refused("analyze", "attention", tiny_model, tmp_path / "gone", *data)


def test_a_clip_without_lips_is_named(refused, tiny_model, tmp_path, clips):
    path = tmp_path / "deaf.csv"
    path.write_text(f"id,path,split,text\none,{clips / 'talk.wav'},test,bin blue\n")
    assert "talk.wav has no visible mouth" in refused("analyze", "similarity", tiny_model, "--data", path)
