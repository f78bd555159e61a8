"""The comparison on real backbones, carried out on the toy's."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mome.training import recipe_names
from tests.training.toy import toy_backbones, toy_corpus

SCRIPTS = Path(__file__).parents[2] / "scripts" / "comparison"


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("run", "runs", "real"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import real

    yield real
    for name in ("run", "runs", "real"):
        sys.modules.pop(name, None)


def test_what_is_trained(real: Any):
    all_runs = real.SPEECH.all_runs()
    runs = [run for run in all_runs if not run.stage]
    everything = list(dict.fromkeys(one for run in all_runs for one in (*run.all_needs(), run)))
    assert len({run.name for run in everything}) == len(everything), "no two runs share a folder"
    assert {run.recipe for run in everything} <= set(recipe_names())
    assert [run.system for run in runs[:2]] == ["projectors-only", "llama-mtsk-ms"], "the gate comes first"
    assert [run.stage for run in everything[:5]] == ["align", "search", "search", "search", ""]
    for run in runs:
        assert [need.stage for need in run.needs] == ["align", "search", "search", "search"]
        rates = {override for need in run.needs for override in need.overrides if "optim.learning_rate" in override}
        assert rates == {f"optim.learning_rate={rate}" for rate in ("5e-4", "1e-3", "2e-3")}
    by_system: dict[str, set[int]] = {}
    for run in runs:
        by_system.setdefault(run.system, set()).add(run.seed)
    assert len(by_system) == 17
    assert set(map(frozenset, by_system.values())) == {frozenset({1, 2, 3})}
    aligned = {run.system: run.needs[0].recipe for run in runs}
    assert {system for system, recipe in aligned.items() if recipe == "llama-mtsk-ms-asr-speech"} == {"m3"}
    assert set(aligned.values()) == {"llama-mtsk-ms-asr-speech", "projectors-only-asr-speech"}
    effect = [run for run in all_runs if run.stage == "effect"]
    assert {run.recipe for run in effect} == {"mome-layer-asr-speech"}
    aligned, not_aligned = effect[::2], effect[1::2]
    assert [run.overrides[-1] for run in aligned] == [run.overrides[-1] for run in not_aligned]
    assert all(run.needs == runs[2].needs for run in aligned), "what the compared run needs"
    for run in not_aligned:
        assert [need.stage for need in run.needs] == ["search", "search", "search"]
        assert all("align.epochs=null" in one.overrides for one in (*run.needs, run))


def test_what_is_trained_on_grid(real: Any):
    runs = real.GRID.all_runs()
    everything = list(dict.fromkeys(one for run in runs for one in (*run.all_needs(), run)))
    assert len({run.name for run in everything}) == len(everything), "no two runs share a folder"
    assert {run.recipe for run in everything} <= set(recipe_names())
    assert [run.system for run in runs[:2]] == ["projectors-only", "llama-mtsk-ms"], "the gate comes first"
    assert len(runs) == 3 * (8 + 2 * 4), "eight systems for all rates, two for each of four pairs, three seeds"
    assert {run.stage for run in runs} == {""}
    (one, *_) = (
        run for run in runs if run.system == "mome-mhsa-independent" and "model.video_rates=[5]" in run.overrides
    )
    assert one.overrides == ("model.audio_rates=[4]", "model.video_rates=[5]")
    assert {need.recipe for need in one.needs} == {"projectors-only-grid-real", "mome-mhsa-grid-real"}


@pytest.mark.slow
def test_one_system_from_alignment_to_error_rates(real: Any, tmp_path: Path):
    manifest, backbones = toy_corpus(tmp_path / "data"), toy_backbones(tmp_path / "backbones")
    changes = [f"model.{part}={backbones}/{part}" for part in ("audio_encoder", "language_model")]
    changes += ["model.projector_hidden=16", f"data.cache_folder={tmp_path}/cache", "model.audio_rates=[4,8]"]
    changes += ["align.epochs=null", "align.steps=2", "optim.log_steps=1", "optim.warmup_steps=0"]
    changes += ["model.generation={max_new_tokens: 3}", "optim.precision=fp32"]
    runs, results = tmp_path / "runs", tmp_path / "results"
    where = {"corpus": "asr-speech", "noise": None, "runs": runs, "results": results, "batch": 30}
    args = Namespace(manifest=manifest, test=manifest, set=[*changes, "optim.steps=1"], steps=None, **where)
    run = real.SPEECH.all_runs()[2]
    assert run.system == "mome-layer"
    assert not any(real.is_done(each, args) for each in (*run.needs, run))
    for need in run.needs:
        real.work(need, args)
    assert all(real.is_done(need, args) for need in run.needs)
    features = sorted((tmp_path / "cache" / "tokens").iterdir())
    losses = [json.loads((results / f"{need.name}.json").read_text())["losses"] for need in run.needs[1:]]
    assert all(loss.keys() == {"4,-", "8,-"} and min(loss.values()) > 0 for loss in losses)
    means = [sum(loss.values()) for loss in losses]
    assert len(set(means)) == 3
    best = ("5e-4", "1e-3", "2e-3")[means.index(min(means))]

    args.set.append("optim.connector_learning_rate=1e-12")
    line = real.work(run, args)
    document = json.loads((results / "mome-layer-asr-1.json").read_text())
    assert f"optim.learning_rate={best} " in document["command"]
    assert {"versions", "machine", "parameters", "data"} <= document.keys()
    assert (document["system"], document["training"]["seed"]) == ("mome-layer", 1)
    assert [row["rates"] for row in document["results"]] == ["4,-", "8,-"]
    for row in document["results"]:
        errors, words = ([int(one) for one in row[f"clip_{name}"].split()] for name in ("errors", "words"))
        assert words == [6, 6, 6]
        assert row["wer"] == sum(errors) / 18
    assert line == "mome-layer-asr-1: WER % " + " ".join(f"{100 * row['wer']:.1f}" for row in document["results"])
    aligned = load_file(runs / run.needs[0].name / "align" / "model.safetensors")
    trained = load_file(runs / run.name / "model.safetensors")
    assert len(aligned) == 4
    for key, value in aligned.items():
        torch.testing.assert_close(trained[key], value)
    assert sorted((tmp_path / "cache" / "tokens").iterdir()) == features
    assert not list(runs.rglob("checkpoint-*"))
    # What the encoders gave is kept, and read: the same clips at the same errors, without an encoder.
    encoded = next((runs / "encoded").iterdir())
    (results / "mome-layer-asr-1.json").unlink()
    before = encoded.stat().st_mtime_ns
    assert real.work(run, args) == line
    assert encoded.stat().st_mtime_ns == before


@pytest.mark.slow
def test_with_lips_and_in_noise(real: Any, tmp_path: Path):
    manifest, backbones = toy_corpus(tmp_path / "data"), toy_backbones(tmp_path / "backbones")
    parts = ("audio_encoder", "video_encoder", "language_model")
    changes = [f"model.{part}={backbones}/{part}" for part in parts]
    changes += ["model.projector_hidden=16", f"data.cache_folder={tmp_path}/cache", "data.variants=1"]
    changes += ["model.audio_rates=[2,3]", "model.video_rates=[1]", "align.steps=1", "optim.steps=1"]
    changes += ["optim.log_steps=1", "model.generation={max_new_tokens: 3}", "optim.precision=fp32"]
    runs, results, noise = tmp_path / "runs", tmp_path / "results", manifest.parent / "train_0_0.mp4"
    where = {"corpus": "grid-real", "noise": noise, "test": None, "runs": runs, "results": results, "batch": 30}
    args = Namespace(manifest=manifest, set=changes, steps=None, **where)
    run = real.GRID.all_runs()[2]
    assert run.system == "mome-layer"
    align, tried, *others = run.needs
    for need in (align, tried):
        real.work(need, args)
    losses = json.loads((results / f"{tried.name}.json").read_text())["losses"]
    assert losses.keys() == {"2,1", "3,1"}
    for other in others:
        (results / f"{other.name}.json").write_text(json.dumps({"losses": {"2,1": 100.0}}))
    real.work(run, args)
    document = json.loads((results / "mome-layer-grid-1.json").read_text())
    assert {(row["rates"], row["snr_db"]) for row in document["results"]} == {
        (rates, level) for rates in losses for level in (None, 0.0)
    }
    assert f"augment.noise=[{noise}]" in document["command"]
    assert f"align.start={runs / align.name / 'align'}" in document["command"]
    assert f"{tried.overrides[-1]} " in document["command"]
    # The validation loss is that in noise: without, it is another.
    clean = real.Measurement(manifest, "valid", runs / "clips", results, transcripts=False, losses=True)
    again = sys.modules["run"].evaluated(runs / tried.name, clean, "")["losses"]
    assert all(abs(again[rates] - loss) > 1e-6 for rates, loss in losses.items())


def test_with_the_alignment_and_without(real: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both on the validation split, each at the learning rate that was best for it, with the minutes of both stages."""
    manifest, backbones = toy_corpus(tmp_path / "data"), toy_backbones(tmp_path / "backbones")
    changes = [f"model.{part}={backbones}/{part}" for part in ("audio_encoder", "language_model")]
    changes += ["model.projector_hidden=16", f"data.cache_folder={tmp_path}/cache", "model.audio_rates=[4,8]"]
    changes += ["align.epochs=null", "align.steps=2", "optim.log_steps=1", "optim.warmup_steps=0"]
    changes += ["model.generation={max_new_tokens: 3}", "optim.precision=fp32"]
    runs, results = tmp_path / "runs", tmp_path / "results"
    where = {"corpus": "asr-speech", "noise": None, "test": None, "runs": runs, "results": results, "batch": 30}
    args = Namespace(manifest=manifest, set=[*changes, "optim.steps=1"], steps=None, **where)
    first, second = real.SPEECH.effect_runs()[:2]
    best = {first: "2e-3", second: "5e-4"}
    for run in (first, second):
        for need in run.needs:
            if need.stage == "align":
                real.work(need, args)
                continue
            loss = 1.0 + (need.overrides[-1] != f"optim.learning_rate={best[run]}")
            path = results / f"{need.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"losses": {"2,-": loss}}))
    for run in (first, second):
        line = real.work(run, args)
        document = json.loads((results / f"{run.name}.json").read_text())
        assert line.startswith(f"{run.name}: WER % ")
        assert f"optim.learning_rate={best[run]} " in document["command"]
        assert document["losses"].keys() == {"4,-", "8,-"}
        assert [row["words"] for row in document["results"]] == [18, 18]
        assert document["training"]["seconds"] > 0
        assert ("alignment_seconds" in document["training"]) == (run is first)
        assert ("align.start=" in document["command"]) == (run is first)


def test_runs_wait_for_those_that_they_need(real: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    comparison = sys.modules["run"]
    monkeypatch.setattr(comparison, "ProcessPoolExecutor", lambda jobs, context: ThreadPoolExecutor(jobs))
    first, broken = (real.Run(name, f"{name}-asr-speech", (), 1) for name in ("a", "b"))
    second = real.Run("c", "c-asr-speech", (), 1, (first,))
    hopeless = real.Run("d", "d-asr-speech", (), 1, (broken, first))
    old = real.Run("e", "e-asr-speech", (), 1)
    worked: list[str] = []

    def work(run: Any) -> str:
        worked.append(run.system)
        if run.system == "b":
            raise ValueError("out of luck")
        return run.name

    assert comparison.do_all([second, hopeless, old], lambda run: run is old, work, 1) == 2
    assert sorted(worked) == ["a", "b", "c"]
    assert worked.index("a") < worked.index("c")
    told = capsys.readouterr()
    assert told.out.startswith("4 of 5 runs to do\n[1/4] a-asr-1\n")
    assert "b-asr-1 failed: out of luck" in told.err
    assert "d-asr-1 left out: a run that it needs failed" in told.err
