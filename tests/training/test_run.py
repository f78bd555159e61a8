"""Training from recipe to transcript, and what a killed run gives after it is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mome
from mome.errors import MomeError
from mome.media import load_clip
from mome.training.run import train
from tests.training.toy import MOME, SENTENCES, toy_recipe


def recipe(toy: Path, output: Path, cache: str = "clips", adapter: str = MOME) -> Path:
    return toy_recipe(output.parent, toy / "data" / "manifest.csv", toy / "backbones", output, cache, adapter)


def losses(output: Path) -> list[tuple[int, float]]:
    history = json.loads((output / "history.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


@pytest.mark.slow
def test_train_then_transcribe(toy: Path, tmp_path: Path):
    output = train(recipe(toy, tmp_path / "run", "tokens"), ["optim.epochs=50", "validation.every_steps=50"])
    trajectory = losses(output)
    assert trajectory[-1][1] < 0.1 * trajectory[0][1]
    model = mome.load(output)
    correct = [
        model.transcribe(toy / "data" / f"test_{number}_4.mp4", rates=rates).text == text
        for number, text in enumerate(SENTENCES)
        for rates in ("4,2", "16,5", "4,-", "-,5")
    ]
    assert sum(correct) >= 7, "4 of 12 would be chance"
    clips = list((toy / "data").glob("train_*.mp4"))
    mean = sum(load_clip(path).seconds for path in clips) / len(clips)
    assert model.model.config.segment_seconds == pytest.approx(mean, abs=0.05)
    assert any((output / "tensorboard").iterdir())
    assert "audio_encoder.encoder.conv1.weight" not in load_file(output / "model.safetensors")
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "its gradients can be NaN"


@pytest.mark.slow
def test_clips_are_augmented_and_encoded_anew_without_the_token_cache(toy: Path, tmp_path: Path):
    output = train(recipe(toy, tmp_path / "run", "clips"), ["optim.epochs=10"])
    trajectory = losses(output)
    assert trajectory[-1][1] < 0.6 * trajectory[0][1]
    assert not (tmp_path / "cache" / "tokens").exists()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(toy: Path, tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    random = "{type: lora, bottleneck: 16, dropout: 0.3}"
    straight = train(recipe(toy, tmp_path / "a" / "run", adapter=random))
    killed = recipe(toy, tmp_path / "b" / "run", adapter=random)
    process = subprocess.Popen(
        [sys.executable, "-c", f"from mome.training.run import train; train({str(killed)!r})"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output = tmp_path / "b" / "run"
    deadline = time.time() + 120
    while not (output / "checkpoint-6" / "trainer_state.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "history.json").exists()
    assert train(killed, resume=True) == output
    assert losses(output) == losses(straight)
    actual, expected = (load_file(folder / "model.safetensors") for folder in (output, straight))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_a_half_written_checkpoint_is_passed_over(toy: Path, tmp_path: Path):
    path = recipe(toy, tmp_path / "run")
    output = train(path, ["optim.epochs=4"])
    last = max(output.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (last / "trainer_state.json").unlink()  # which is written last
    train(path, ["optim.epochs=4"], resume=True)
    json.loads((last / "trainer_state.json").read_text())


@pytest.mark.parametrize("trained", ["video_adapter={bottleneck: 2}", "unfrozen=[audio_encoder]"])
def test_tokens_of_an_encoder_that_is_trained_are_not_cached(toy: Path, tmp_path: Path, trained: str):
    name = trained.split("=")[0]
    with pytest.raises(MomeError, match=rf"data.cache=tokens keeps the features of .* model.{name}.* choose clips"):
        train(recipe(toy, tmp_path / "run", "tokens"), [f"model.{trained}"])


def test_cached_features_are_those_of_inference_and_one_contexts_are_not_anothers(toy: Path, tmp_path: Path):
    path, cached = recipe(toy, tmp_path / "run", "tokens"), tmp_path / "cache" / "tokens"
    options = ["optim.tasks=[asr]", "optim.steps=1", "optim.rates_per_step=1", "data.limit=2", "data.variants=1"]
    options += ["validation.rates=['4,-']", "augment.snr=[.inf]"]
    before: set[Path] = set()
    for context in ("window", "clip+silence"):
        output = train(path, [*options, f"model.audio_context={context}", f"output={tmp_path / context}"])
        model = mome.load(output)
        assert model.model.config.audio_context == model.processor.audio_context == context
        clips = [mome.media.load_clip(file, video=False) for file in (toy / "data").glob("train_*.mp4")]
        with torch.inference_mode():
            heard = [model.model.encode(**model.processor([clip], video=False)).audio.frames for clip in clips]
        new = set(cached.iterdir()) - before
        assert len(new) == 2
        for file in new:
            stored = load_file(file)["audio"].float()
            assert any(frames.shape == stored.shape and (frames - stored).abs().max() < 4e-3 for frames in heard)
        before |= new


def test_trained_encoders_and_markers(toy: Path, tmp_path: Path):
    options = ["model.video_adapter={bottleneck: 4, scale: 1}", "model.unfrozen=[audio_encoder]", "model.markers=true"]
    output = train(recipe(toy, tmp_path / "run"), [*options, "model.bos=true", "optim.epochs=2"])
    written = load_file(output / "model.safetensors")
    assert len(written["added_embeddings"]) == len(written["added_head"]) == 4
    start = load_file(toy / "backbones" / "audio_encoder" / "model.safetensors")
    assert not torch.equal(written["audio_encoder.encoder.conv1.weight"], start["conv1.weight"])
    assert written["video_encoder.encoder.layers.0.self_attn.q_proj.lora.up.weight"].any()
    model = mome.load(output)
    config, tokenizer = model.model.config, model.processor.tokenizer
    ids = [config.start_ids, config.audio_markers, config.video_markers]
    names = [["<s>"], ["<audio>", "</audio>"], ["<video>", "</video>"]]
    assert [tokenizer.convert_ids_to_tokens(each) for each in ids] == names
    assert model.transcribe(toy / "data" / "test_0_4.mp4", rates="4,2").tokens.prompt == 5 + len(
        config.text_ids("avsr")
    )


def test_a_run_from_before_there_was_an_option_resumes(toy: Path, tmp_path: Path):
    path = recipe(toy, tmp_path / "run")
    output = train(path, ["optim.epochs=1"])
    before = [line for line in (output / "recipe.yaml").read_text().splitlines() if "markers" not in line]
    (output / "recipe.yaml").write_text("\n".join(before))
    assert train(path, ["optim.epochs=1"], resume=True) == output
