"""What a run may overwrite and delete, what it can be resumed with, and what happens when it cannot go on."""

from __future__ import annotations

import json
import math
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mome
from mome.data.manifests import ManifestRow
from mome.data.tables import read_rows
from mome.errors import MomeError
from mome.training import trainer
from mome.training.run import train
from mome.training.sharing import SkippedClips
from mome.training.trainer import MatryoshkaTrainer
from tests.training.toy import toy_backbones, toy_corpus, toy_recipe

FAST = ("validation.rates=[]", "validation.every_steps=2", "optim.log_steps=1")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_corpus(folder / "data")
    toy_backbones(folder / "backbones")
    toy_recipe(folder, folder / "data" / "manifest.csv", folder / "backbones", folder / "unused")
    return folder


@pytest.fixture(scope="module")
def trained(toy: Path) -> Path:
    """A finished run of four steps with checkpoints 2 and 4; only to be copied."""
    return train(toy / "toy_clips.yaml", [*FAST, "optim.steps=4", f"output={toy}/trained"])


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def start(toy: Path, output: Path, *overrides: str, resume: bool = False) -> Path:
    return train(toy / "toy_clips.yaml", [*FAST, "optim.steps=4", f"output={output}", *overrides], resume)


def refusal(toy: Path, output: Path, *overrides: str, resume: bool = False) -> str:
    with pytest.raises(MomeError) as caught:
        start(toy, output, *overrides, resume=resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "recipe.yaml", "tokenizer.json", "checkpoint-5/mine.txt", "tensorboard/x"],
)
def test_files_of_others_are_neither_deleted_nor_written_over(toy, tmp_path, name, resume):
    folder = tmp_path / "theirs"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("precious")
    message = refusal(toy, folder, resume=resume)
    assert f"{folder} holds {name.split('/')[0]} but no checkpoints.json, so it is not known which run wrote" in message
    assert content(folder) == {name: b"precious"}


def test_a_run_whose_record_is_lost_is_left_alone(toy, run):
    (run / "checkpoints.json").unlink()
    before = content(run)
    for resume in (False, True):
        message = refusal(toy, run, resume=resume)
        assert f"{run} holds " in message
        assert "but no checkpoints.json, so it is not known which run wrote it" in message
    assert content(run) == before


def test_a_checkpoint_of_others_in_a_run(toy, run):
    for name in ("checkpoint-3", "checkpoint-1000", "checkpoint-mine"):
        (run / name).mkdir()
        (run / name / "precious").write_text("x")
        before = content(run)
        message = refusal(toy, run, "optim.steps=8", resume=True)
        assert f"{run / name} was not written by the run in this folder" in message
        assert content(run) == before
        shutil.rmtree(run / name)


def test_a_link_in_place_of_a_runs_file_is_not_followed(toy, run, tmp_path):
    (tmp_path / "precious").write_text("x")
    (run / "history.json").unlink()
    (run / "history.json").symlink_to(tmp_path / "precious")
    start(toy, run, resume=True)
    assert (tmp_path / "precious").read_text() == "x"
    assert json.loads((run / "history.json").read_text())


def test_a_run_is_not_started_over_and_logs_beside_it_are_no_matter(toy, run, tmp_path):
    assert "already holds a training run: add --resume" in refusal(toy, run)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.txt").write_text("mine")
    start(toy, tmp_path / "new")
    assert (tmp_path / "new" / "log.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "new").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not list((tmp_path / "new").glob("*.part"))


def test_a_folder_that_cannot_be(toy, tmp_path):
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path}/file" in refusal(toy, tmp_path / "file")
    assert f"{tmp_path}/file" in refusal(toy, tmp_path / "file" / "deeper")
    assert f"{toy}/backbones holds audio_encoder" in refusal(toy, toy / "backbones")


def test_only_the_length_may_change_on_resumption(toy, run):
    message = refusal(toy, run, "optim.learning_rate=1e-3", "optim.seed=7", resume=True)
    assert "optim.learning_rate was 0.005 and is 0.001, and 1 more keys differ" in message
    assert "optim.steps=3 is less than the 4" in refusal(toy, run, "optim.steps=3", resume=True)
    assert "optim.epochs=1 is less than the 1.33333" in refusal(
        toy, run, "optim.steps=null", "optim.epochs=1", resume=True
    )
    before = content(run)
    assert start(toy, run, resume=True) == run
    assert content(run)["model.safetensors"] == before["model.safetensors"]


def test_a_run_goes_on_elsewhere_to_the_same_weights(toy, run, tmp_path):
    there = Path(shutil.copytree(run, tmp_path / "there"))
    start(toy, run, "optim.steps=6", resume=True)
    elsewhere = ("data.workers=2", f"data.cache_folder={tmp_path}/cache", "optim.report_to=[]")
    start(toy, there, "optim.steps=6", *elsewhere, resume=True)
    assert (tmp_path / "cache" / "clips").is_dir()
    assert content(there)["model.safetensors"] == content(run)["model.safetensors"]


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff", b"mine: 1"])
def test_a_checkpoint_is_not_gone_on_from_without_the_recipe_it_was_trained_by(toy, run, damage):
    file = run / "recipe.yaml"
    file.unlink() if damage is None else file.write_bytes(damage)
    before = content(run)
    assert str(file) in refusal(toy, run, "optim.learning_rate=1e-3", resume=True)
    assert content(run) == before


def test_a_longer_run_goes_on_at_the_rate_of_the_longer_schedule(toy, run):
    first = (run / "checkpoint-4" / "model.safetensors").read_bytes()
    start(toy, run, "optim.steps=8", resume=True)
    entries = [entry for entry in json.loads((run / "history.json").read_text()) if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, 9))
    cosine = [
        0.005 * 0.5 * (1 + math.cos(math.pi * step / length)) for step, length in [(3, 4), (4, 8), (5, 8), (7, 8)]
    ]
    assert [entries[step]["learning_rate"] for step in (3, 4, 5, 7)] == pytest.approx(cosine)
    assert (run / "model.safetensors").read_bytes() != first
    assert (run / "checkpoint-8").is_dir()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone", "changed"])
def test_a_damaged_file_of_the_last_checkpoint_is_named(toy, run, name, how):
    file = run / "checkpoint-4" / name
    if how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "gone":
        file.unlink()
    else:
        whole = bytearray(file.read_bytes())
        where = len(whole) // 2 if file.suffix == ".safetensors" else 80  # in the weights; in the first of zipped files
        whole[where : where + 4] = b"\xff\xff\xff\xff"  # as float32 not a number
        file.write_bytes(whole)
    message = refusal(toy, run, "optim.steps=6", resume=True)
    assert f"{file} is missing or damaged: delete {file.parent}" in message
    shutil.rmtree(file.parent)
    start(toy, run, "optim.steps=6", resume=True)


@pytest.mark.parametrize("content_of_it", ["{", "", "[]", "5", '{"global_step": 3}', '{"mine": 1}', "[" * 100_000])
def test_a_checkpoint_whose_state_is_damaged_is_named_and_kept(toy, run, content_of_it):
    file = run / "checkpoint-4" / "trainer_state.json"
    file.write_text(content_of_it)
    before = content(run)
    assert f"{file} is missing or damaged: delete {file.parent}" in refusal(toy, run, resume=True)
    assert content(run) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("log_history", 5),
        ("log_history", ["x"]),
        ("epoch", "x"),
        ("epoch", math.nan),
        ("epoch", 10**400),
        ("global_step", 4.0),
        ("total_flos", "x"),
        ("num_input_tokens_seen", []),
        ("best_metric", "x"),
        ("best_global_step", "x"),
        ("best_model_checkpoint", 5),
        ("stateful_callbacks", 5),
        ("stateful_callbacks", {}),
    ],
)
def test_a_checkpoint_whose_state_holds_another_kind_of_value_is_named(toy, run, key, value):
    file = run / "checkpoint-4" / "trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    assert f"{file} is missing or damaged" in refusal(toy, run, "optim.steps=6", resume=True)


def test_a_checkpoint_cut_off_is_deleted_once_nothing_is_refused(toy, run, caplog):
    cut_off = run / "checkpoint-4"
    (cut_off / "trainer_state.json").unlink()
    before = content(run)
    assert "another recipe" in refusal(toy, run, "optim.seed=7", resume=True)
    assert content(run) == before
    assert not caplog.records
    start(toy, run, resume=True)
    assert f"{cut_off} was cut off while it was written: deleted" in caplog.text
    steps = [entry["step"] for entry in json.loads((run / "history.json").read_text()) if "loss" in entry]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [(), ("optim.accumulate=2",), ("optim.gradient_checkpointing=true",)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_diverges_ends_with_step_and_clips(toy, tmp_path, options, precision):
    wild = ("optim.learning_rate=1e30", "optim.clip_norm=0", f"optim.precision={precision}", *options)
    message = refusal(toy, tmp_path / "run", *wild)
    assert "training stopped at step " in message
    assert "with the clips train_" in message
    assert "there is no checkpoint yet" in message
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_the_update_of_the_last_step_counts_too(toy, tmp_path):
    message = refusal(toy, tmp_path / "run", "optim.learning_rate=1e300", "optim.steps=1")
    assert "training stopped at step 1: the largest weight after the update is" in message
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_the_last_good_checkpoint_is_kept_and_can_be_used(toy, tmp_path, monkeypatch):
    compute, output = MatryoshkaTrainer.compute_loss, tmp_path / "run"

    def poisoned(trainer, *args, **kwargs):
        loss = compute(trainer, *args, **kwargs)
        return loss * float("inf") if trainer.state.global_step == 5 else loss

    monkeypatch.setattr(MatryoshkaTrainer, "compute_loss", poisoned)
    message = refusal(toy, output, "optim.steps=8")
    assert "step 6: the gradient's norm is nan" in message
    assert f"the last good checkpoint is {output / 'checkpoint-4'}" in message
    weights = load_file(output / "checkpoint-4" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert mome.load(output / "checkpoint-4").transcribe(toy / "data" / "test_0_4.mp4", rates="4,2").tokens.total
    monkeypatch.undo()
    start(toy, output, "optim.steps=8", resume=True)
    assert (output / "checkpoint-8").is_dir()


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")),
        ("mome.checkpoints.checkpoint.save_tensors", OSError(28, "No space left on device")),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before(toy, tmp_path, monkeypatch, target, error):
    output = tmp_path / "run"
    start(toy, output, "optim.steps=2")
    (output / "config.json").unlink()

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(target, full)
    message = refusal(toy, output, "optim.steps=6", resume=True)
    assert f"{output / 'checkpoint-4'} cannot be" in message
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not list(output.rglob("*.part"))
    monkeypatch.undo()
    start(toy, output, "optim.steps=6", resume=True)
    assert [path.name for path in sorted(output.glob("checkpoint-*"))] == ["checkpoint-4", "checkpoint-6"]


def test_weights_that_are_no_numbers_are_not_gone_on_from(toy, run):
    file = run / "checkpoint-4" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    assert f"{file} is missing or damaged" in refusal(toy, run, "optim.steps=6", resume=True)


def test_the_state_is_written_after_all_else_of_a_checkpoint(toy, tmp_path, monkeypatch):
    beside: list[set[str]] = []

    def write(state: Any, path: str) -> None:
        beside.append({file.name for file in Path(path).parent.iterdir()})
        original(state, path)

    original = trainer._write_state
    monkeypatch.setattr(trainer, "_write_state", write)
    start(toy, tmp_path / "run")
    needed = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert len(beside) == 2
    assert all(needed <= files and "trainer_state.json" not in files for files in beside)


def mean(folders: list[Path]) -> dict[str, torch.Tensor]:
    several = [load_file(folder / "model.safetensors") for folder in folders]
    return {
        name: sum(weights[name].double() for weights in several) / len(several) if value.is_floating_point() else value
        for name, value in several[-1].items()
    }


def test_the_mean_of_the_last_checkpoints_is_the_model(toy, tmp_path, caplog):
    output = tmp_path / "run"
    options = ("optim.steps=8", "optim.average_last=3")
    start(toy, output, *options)
    checkpoints = [output / f"checkpoint-{step}" for step in (4, 6, 8)]
    assert sorted(output.glob("checkpoint-*")) == checkpoints
    expected, written = mean(checkpoints), load_file(output / "model.safetensors")
    assert written.keys() == expected.keys()
    for name, value in written.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-8)
    assert not torch.allclose(
        written["connector.audio.0.0.weight"], mean(checkpoints[-1:])["connector.audio.0.0.weight"].float()
    )

    for name in ("checkpoint-8/trainer_state.json", "config.json", "model.safetensors", "history.json"):
        (output / name).unlink()  # as if killed while it wrote the last checkpoint
    start(toy, output, *options, resume=True)
    resumed = load_file(output / "model.safetensors")
    assert all(torch.equal(value, written[name]) for name, value in resumed.items())
    assert "checkpoints only" not in caplog.text


def test_the_mean_is_validated_and_of_all_checkpoints_if_there_are_few(toy, tmp_path, caplog):
    output = tmp_path / "run"
    start(toy, output, 'validation.rates=["4,-"]', "optim.average_last=5")
    assert "optim.average_last=5: the run has 2 checkpoints only" in caplog.text
    expected, written = mean(sorted(output.glob("checkpoint-*"))), load_file(output / "model.safetensors")
    for name, value in written.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-8)
    history = json.loads((output / "history.json").read_text())
    assert [entry["step"] for entry in history if "eval_wer/4,-" in entry] == [2, 4, 4]


def test_clips_that_cannot_be_read_are_skipped_up_to_a_limit(toy, tmp_path, caplog):
    lines = (toy / "data" / "manifest.csv").read_text().splitlines()
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    places = [
        ",".join([name, str(toy / "data" / path), *rest])
        for name, path, *rest in (line.split(",") for line in lines[1:])
    ]
    bad = [f"bad_{split},bad.mp4,{split},set red" for split in ("train", "valid")]
    (tmp_path / "manifest.csv").write_text("\n".join([lines[0], *places, *bad]))
    given, output = (f"data.manifests=[{tmp_path}/manifest.csv]", 'validation.rates=["4,-"]'), tmp_path / "run"

    message = refusal(toy, output, *given)
    assert message.startswith(f"{tmp_path}/bad.mp4 cannot be opened")
    assert f"(2 of 14 clips cannot be read, more than data.skip_percent=1 allows: see {output}/skipped.csv)" in message
    start(toy, output, *given, "data.skip_percent=15", resume=True)
    assert caplog.text.count("clip bad_train is skipped: ") == caplog.text.count("clip bad_valid is skipped: ") == 2
    written = [line.split(",")[:3] for line in (output / "skipped.csv").read_text().splitlines()]
    assert written == [
        ["step", "id", "path"],
        *(["0", f"bad_{split}", f"{tmp_path}/bad.mp4"] for split in ("train", "valid")),
    ]
    expected = load_file(start(toy, tmp_path / "without", given[1]) / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in load_file(output / "model.safetensors").items())


def test_missing_files_and_cut_off_tar_files_are_skipped_like_damaged_clips(toy, tmp_path):
    lines = (toy / "data" / "manifest.csv").read_text().splitlines()
    places = [f"{name},{toy / 'data'}/{rest}" for name, rest in (line.split(",", 1) for line in lines[1:])]
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        archive.add(next((toy / "data").rglob("*.mp4")), "a.mp4")
    os.truncate(tmp_path / "cut.tar", 1024)
    lost = ["gone.mp4", "gone.tar/a.mp4", "cut.tar/a.mp4", "toy/gone.mp4"]
    rows = [f"lost{number},{path},train,set red,25" for number, path in enumerate(lost)]
    head = [f"{lines[0]},frames", *(f"{place}," for place in places), *rows, "silent,gone.mp4,valid,set red,25"]
    (tmp_path / "manifest.csv").write_text("\n".join(head))
    given, output = (f"data.manifests=[{tmp_path}/manifest.csv]", 'validation.rates=["4,-"]'), tmp_path / "run"

    message = refusal(toy, output, *given)
    assert f"of 17 clips cannot be read, more than data.skip_percent=1 allows: see {output}/skipped.csv)" in message
    start(toy, output, *given, "data.skip_percent=40", resume=True)
    skipped = {row["id"]: row["reason"] for _, row in read_rows(output / "skipped.csv", ("id", "reason"))}
    assert list(skipped) == ["lost0", "lost1", "lost2", "lost3", "silent"]
    assert f"{tmp_path}/gone.mp4 cannot be read: check the path" in skipped["lost0"]
    assert f"{tmp_path}/cut.tar is not a complete tar file" in skipped["lost2"]


def test_what_was_skipped_stays_out_until_the_run_is_started_anew(tmp_path):
    rows = [ManifestRow(name, Path(f"{name}.mp4"), "train", "set red") for name in ("ant", "bee", "cat")]
    first = SkippedClips(tmp_path, rows, 70, resume=False)
    first.add({2: "no face, said, with commas"}, 0)
    first.add({0: "damaged", 2: "again"}, 40)
    found = {2: (0, "no face, said, with commas"), 0: (40, "damaged")}
    assert first.found == SkippedClips(tmp_path, rows, 70, resume=True).found == found
    assert SkippedClips(tmp_path, rows[::-1], 70, resume=True).found == {2 - place: why for place, why in found.items()}
    with pytest.raises(
        MomeError, match=r"damaged \(2 of 3 clips cannot be read, more than data.skip_percent=60 allows"
    ):
        SkippedClips(tmp_path, rows, 60, resume=True).add({}, 0)
    assert SkippedClips(tmp_path, rows, 70, resume=False).found == {}
    assert not list(tmp_path.iterdir())
