"""``--compat official``: the same as ``compat="official"`` in Python, and refused where the model cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mome
from mome import Rates
from mome.data.manifests import read_manifest
from mome.evaluation.evaluate import evaluate
from mome.evaluation.result import make_conditions
from tests.decoding.window import window_model
from tests.media.builders import write

OFFICIAL = ["--compat", "official"]


@pytest.fixture(scope="module")
def published(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can follow the official arithmetic."""
    return window_model(tiny_model, tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """1.12 s, of which bfloat16 keeps 55 of Whisper's 56 tokens, and 0.8 s."""
    folder, paths = tmp_path_factory.mktemp("talks"), []
    for number, frames in enumerate((28, 20)):
        wave = 0.1 * np.random.default_rng(number).standard_normal(640 * frames).astype(np.float32)
        mouth = [np.full((96, 96), 40 + 5 * k, np.uint8) for k in range(frames)]
        paths.append(write(folder / f"talk{number}.mkv", mouth, wave=wave))
    return paths


@pytest.fixture
def manifest(talks: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "clips.csv"
    rows = [f"{talk.stem},{talk},test,bin blue at f two now" for talk in talks]
    path.write_text("\n".join(["id,path,split,text", *rows]) + "\n")
    return path


def without_seconds(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "seconds"}


@pytest.mark.parametrize(("options", "compat", "tokens"), [([], None, 56 // 4), (OFFICIAL, "official", 55 // 4)])
@pytest.mark.slow
def test_transcribe_prepares_a_clip_as_python_does(run, published, talks, options, compat, tokens):
    rates = ("4,2", "4,-")
    result = run(
        "transcribe", talks[0], "--model", published, "--rates", rates[0], "--rates", rates[1], "--json", *options
    )
    assert result.exit_code == 0, result.output
    found = [without_seconds(one) for one in json.loads(result.stdout)["results"]]
    model = mome.load(published, compat=compat)
    python = [json.loads(json.dumps(model.transcribe(talks[0], one).to_json())) for one in rates]
    assert found == [without_seconds(one) for one in python]
    assert [one["tokens"]["audio"] for one in found] == [tokens, tokens]


@pytest.mark.parametrize(
    ("options", "compat", "batch", "tokens"),
    [
        ([], None, 8, (56 // 4 + 28 // 2, 40 // 4 + 20 // 2)),
        (OFFICIAL, "official", 8, (55 // 4 + 28 // 2, 55 // 4 + 28 // 2)),
        ([*OFFICIAL, "--batch", "1"], "official", 1, (55 // 4 + 28 // 2, 40 // 4 + 20 // 2)),
    ],
)
def test_evaluate_prepares_a_batch_as_python_does(run, published, manifest, options, compat, batch, tokens):
    result = run("evaluate", "--data", manifest, "--model", published, "--rates", "4,2", "--json", *options)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["results"]
    model, conditions = mome.load(published, compat=compat), make_conditions([Rates(4, 2)], [None])
    (python,) = evaluate(model, read_manifest(manifest), conditions, batch_size=batch)
    assert (found["wer"], found["tokens_mean"]) == (python.wer, python.tokens_mean)
    prompt = len(model.model.config.start_ids) + len(model.model.config.prompt_ids["avsr"])
    assert found["tokens_mean"] == sum(tokens) / 2 + prompt


def test_a_model_that_cannot_is_refused_before_any_work(refused, tiny_model):
    """The clip and the manifest's clips are not looked for."""
    for name in (tiny_model, "mome-tiny"):
        line = refused("transcribe", "missing.mp4", "--model", name, *OFFICIAL)
        assert f"--compat official does not suit {name}, leave it out: " in line
        assert "audio_context=window" in line


def test_evaluate_refuses_too(refused, tiny_model, manifest):
    line = refused("evaluate", "--data", manifest, "--model", tiny_model, *OFFICIAL)
    assert "--compat official does not suit" in line


@pytest.mark.parametrize("command", [["transcribe", "a.mp4"], ["evaluate", "--data", "a.csv"]])
def test_another_arithmetic_is_unknown(refused, command):
    line = refused(*command, "--compat", "unofficial")
    assert "--compat" in line
    assert "official" in line


def test_precision_of_the_weights(run, published, talks, monkeypatch):
    load, loaded = mome.load, []

    def watched(*arguments, **options):
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr("mome.decoding.load", watched)
    result = run("transcribe", talks[0], "--model", published, "--rates", "4,2", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert {parameter.dtype for parameter in loaded[0].model.parameters()} == {torch.bfloat16}
    assert run("transcribe", talks[0], "--model", published, "--dtype", "int8").exit_code == 2
    result = run(
        *("transcribe", talks[0], "--model", published, "--rates", "4,2", "--device", "cpu"),
        *("--language-model-dtype", "int8"),
    )
    assert result.exit_code == 0, result.output
    assert loaded[1].model.language_model.get_output_embeddings().weight.dtype == torch.int8
