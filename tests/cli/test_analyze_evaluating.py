"""``mome analyze cost``, ``rates``, ``noise`` and ``top-k``: documents, tables, figures, and refusals in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest


@pytest.fixture
def manifest(tmp_path: Path, clips: Path) -> Path:
    path = tmp_path / "clips.csv"
    rows = [
        f"one,{clips / 'talk.mkv'},test,bin blue at f two now",
        f"two,{clips / 'talk.mkv'},test,set white in b six please",
    ]
    path.write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    return path


@pytest.fixture
def analyze(run, manifest, tmp_path):
    """Run a command with --json and --out: its document, and the names of the files."""

    def call(command: str, *arguments: object) -> tuple[dict, set[str]]:
        out = tmp_path / "out"
        result = run("analyze", command, *arguments, "--data", manifest, "--json", "--out", out)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert json.loads((out / f"{command}.json").read_text()) == document
        assert document["failures"] == []
        return document, {path.name for path in out.iterdir()}

    return call


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_cost(analyze, tiny_model, tmp_path):
    document, files = analyze("cost", tiny_model, "--task", "avsr", "--task", "asr", "--limit", 1)
    assert {"cost.png", "cost.pdf", "cost.csv", "cost-parts.png", "cost-parts.pdf", "cost-parts.csv"} < files
    rows = {row["rates"]: row for row in document["results"]}
    assert list(rows) == ["4,2", "4,5", "16,2", "16,5", "4,-", "16,-"]
    assert [float(row["tokens"]) for row in table(tmp_path / "out" / "cost.csv")] == [
        r["tokens"] for r in rows.values()
    ]
    assert rows["4,2"]["tokens"] > rows["16,5"]["tokens"]
    assert rows["4,2"]["encoder_tflops"] == pytest.approx(rows["16,5"]["encoder_tflops"])
    assert rows["4,2"]["encoder_tflops"] > rows["4,-"]["encoder_tflops"] > 0
    assert rows["4,2"]["language_tflops"] > 0
    assert rows["4,2"]["encoder_seconds"] > 0
    assert (document["batch"], document["machine"]["threads"], document["machine"]["device"]) == (1, 1, "cpu")
    assert document["machine"]["cpu"]


def test_rates(analyze, tiny_model):
    chosen = ["--rates", "4,-", "--rates", "8,-", "--rates", "16,-"]
    document, files = analyze("rates", tiny_model, *chosen)
    assert {"rates.png", "rates.pdf", "rates.csv"} < files
    assert [(row["rates"], row["way"], row["fed_as"]) for row in document["results"]] == [
        ("4,-", "trained", "4,-"),
        ("8,-", "nearest", "4,-"),
        ("8,-", "pooled", "4,-"),
        ("16,-", "trained", "16,-"),
        ("16,-", "pooled", "4,-"),
    ]
    fine, nearest, pooled, coarse, averaged = (row["tokens"] for row in document["results"])
    assert nearest == pooled
    assert coarse == averaged
    assert fine > nearest > coarse


def test_noise(analyze, tiny_model, clips):
    wanted = ["--noise", "babble", "--noise", clips / "noise.wav", "--snr", "0", "--rates", "16,5"]
    faults = ["--fault", "silent=1", "--fault", "shifted=-80"]
    document, files = analyze("noise", tiny_model, *wanted, *faults)
    names = {f"{name}.{suffix}" for name in ("noise", "faults", "shift") for suffix in ("png", "pdf")}
    assert {*names, "noise.csv", "faults.csv"} < files
    assert [(row["noise"], row["snr_db"]) for row in document["noise"]] == [
        ("clean", None),
        ("babble", 0),
        ("noise.wav", 0),
    ]
    assert [(row["fault"], row["amount"]) for row in document["faults"]] == [
        ("clean", None),
        ("silent", 1),
        ("shifted", -80),
    ]


def test_top_k(analyze, tiny_model, tmp_path):
    few = ["--top-k", 1, "--top-k", 4, "--rates", "16,5", "--limit", 1]
    document, files = analyze("top-k", tiny_model, *few)
    assert files == {f"top-k.{suffix}" for suffix in ("json", "csv", "png", "pdf")}
    assert (document["trained_top_k"], document["routed_experts"]) == (2, 4)
    found = {row["top_k"]: row for row in document["results"]}
    assert list(found) == [1, 2, 4], "the number of the training is among them"
    assert {row["rates"] for row in found.values()} == {"16,5"}
    assert found[1]["tflops_mean"] < found[2]["tflops_mean"] < found[4]["tflops_mean"]
    assert [found[2]["change"], *found[2]["change_ci95"]] == [0, 0, 0]
    cells = table(tmp_path / "out" / "top-k.csv")
    assert [(int(row["top_k"]), float(row["wer"])) for row in cells] == [(k, row["wer"]) for k, row in found.items()]


def test_top_k_by_default_and_as_text(run, tiny_model, manifest):
    result = run("analyze", "top-k", tiny_model, "--data", manifest, "--rates", "16,5", "--limit", 1)
    assert result.exit_code == 0
    header, _, *rows = result.stdout.splitlines()
    assert header.split()[:4] == ["rates", "top-k", "WER", "%"]
    assert [row.split()[:2] for row in rows] == [["16,5", "1"], ["16,5", "2"], ["16,5", "4"]]


def test_text(run, tiny_model, manifest):
    result = run("analyze", "rates", tiny_model, "--data", manifest, "--rates", "8,5", "--limit", 1)
    assert result.exit_code == 0
    header, _, *rows = result.stdout.splitlines()
    assert header.split()[:2] == ["task", "rates"]
    assert [row.split()[:5] for row in rows] == [["avsr", "8,5", "projector", "of", "4,5"]]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["cost", "m", "m"], "given twice"),
        (["cost", "m", "--task", "ast"], "avsr, asr, vsr"),
        (["rates", "m", "--rates", "four"], "AUDIO,VIDEO"),
        (["noise", "m", "--fault", "cracked=1"], "frozen"),
        (["noise", "m", "--fault", "shifted=50"], "40 ms"),
        (["noise", "m", "--snr", "loud"], "loud"),
        (["noise", "m", "--snr", "200"], "200"),
        (["noise", "m", "--noise", "missing.wav"], "missing.wav"),
    ],
)
def test_options_are_checked_before_any_work(refused, arguments, hint):
    assert hint in refused("analyze", *arguments, "--data", "missing.csv")


def test_numbers_of_experts_that_the_model_cannot_have(refused, tiny_model, manifest, tmp_path):
    line = refused("analyze", "top-k", tiny_model, "--data", manifest, "--top-k", 2, "--top-k", 5)
    assert line == f"mome: --top-k = 5 is not possible: choose 1 to 4, the routed experts ({tiny_model})"
    settings = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "adapter": None}))
    assert "so there are no experts" in refused("analyze", "top-k", tmp_path, "--data", manifest)


def test_rates_that_no_projector_can_take(refused, tiny_model, manifest):
    assert "whole numbers" in refused("analyze", "rates", tiny_model, "--data", manifest, "--rates", "4.5,2")
