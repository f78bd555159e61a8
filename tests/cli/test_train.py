from __future__ import annotations

from pathlib import Path

import pytest

import mome.training.run
from mome.errors import MomeError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"output: {tmp_path / 'run'}\ndata: {{manifests: [clips.csv]}}\nmodel: {{language_model: nowhere}}\n"
    )
    return path


def test_arguments_reach_the_trainer(run, monkeypatch, recipe, tmp_path):
    calls = []

    def train(*arguments):
        calls.append(arguments)
        return tmp_path / "run"

    monkeypatch.setattr(mome.training.run, "train", train)
    result = run("train", recipe, "optim.epochs=3", "augment.snr=[-5,0]", "--resume")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'run'}\n"
    run("train", recipe)
    assert calls == [
        (str(recipe), ["optim.epochs=3", "augment.snr=[-5,0]"], True),
        (str(recipe), [], False),
    ]


def test_one_of_several_processes_tells_the_folder(run, monkeypatch, recipe, tmp_path):
    monkeypatch.setattr(mome.training.run, "train", lambda *arguments: tmp_path / "run")
    written = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        result = run("train", recipe)
        assert result.exit_code == 0
        written.append((result.stdout, result.stderr))
    assert written == [(f"{tmp_path / 'run'}\n", "trained; the model is in\n"), ("", "")]


def test_a_misspelt_key_is_answered_with_the_nearest(refused, recipe, tmp_path):
    assert "optim.epochs" in refused("train", recipe, "optim.epoch=3")
    recipe.write_text(recipe.read_text() + "optim: {lerning_rate: 1}\n")
    assert "optim.learning_rate" in refused("train", recipe)
    assert not (tmp_path / "run").exists()


def test_other_mistakes(refused, recipe, monkeypatch):
    assert "no recipe at nonsense" in refused("train", "nonsense")
    assert "key=value" in refused("train", recipe, "resume")

    def train(*arguments):
        raise MomeError("the disk\nis full")

    monkeypatch.setattr(mome.training.run, "train", train)
    assert refused("train", recipe) == "mome: the disk is full"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "mome-layer-grid",
            (),
            ("data.manifests is missing: give data.manifests=[FILE]", "zenodo.org/records/3625687"),
        ),
        ("mqt-lrs2", ("augment.noise=[]",), ("data.manifests is missing", "mome data folder DIR -o FILE")),
        ("mome-layer-grid", ("data.manifests=[x.csv]",), ("augment.noise=[FILE]", "or augment.noise=[] for none")),
        ("mome-layer-grid", ("data.manifests=[x.csv]", "augment.noise=[]"), ("x.csv",)),
    ],
)
def test_corpus_and_noise_are_named_by_the_user(refused, tmp_path, monkeypatch, name, given, message):
    monkeypatch.chdir(tmp_path)
    line = refused("train", name, *given)
    assert all(part in line for part in message)
    assert not list(tmp_path.iterdir())
