"""Every family of systems from its shipped recipe to transcripts, on the toy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mome
from mome.data.manifests import read_manifest
from mome.errors import MomeError
from mome.evaluation.evaluate import evaluate
from mome.evaluation.result import make_conditions
from mome.rates import Rates
from mome.training.run import train
from tests.tiny import END, START, tiny_tokenizer
from tests.training.toy import toy_backbones, toy_corpus

FOUR = ["4,2", "4,5", "16,2", "16,5"]


class System(NamedTuple):
    """What a system's toy run must show.

    Attributes:
        name: of the shipped recipe of the system.
        model: sizes that fit the toy's backbones.
        rates: what the trained model can be asked for.
        trained: what the losses of a step are called: its rates; a number is drawn from the rates.
        told: what is logged of the connector.
        groups: updates of the adapter that are specific to something.
    """

    name: str
    model: dict[str, Any]
    rates: list[str]
    trained: list[str] | int
    logged: tuple[str, ...] = ()
    groups: int = 0


def routed(*routers: str) -> list[str]:
    return [f"{name}/{what}" for name in routers for what in ("entropy", *(f"load_{expert}" for expert in range(4)))]


QFORMER = {"connector": {"hidden": 16, "heads": 2, "inner": 24, "longest": 4}}
SYSTEMS = [
    System("llama-smop", {}, ["4,2"], ["4,2"], ("balance_loss", "z_loss", *routed("audiovisual"))),
    System("mqt", {"connector": {"queries": 12, "heads": 4}}, FOUR, ["avsr"]),
    System("m3", {}, FOUR, FOUR),
    System("mms-llama", QFORMER, ["16,8"], ["16,8"], ("speech_rate_loss",)),
    System("llama-mtsk-ss", {}, FOUR, FOUR, groups=4),
    System("omni-avsr-st", {}, [*FOUR, "4,-", "16,-", "-,2", "-,5"], 3, groups=3),
    System("average-pooling-at-inference", {}, [f"{a},{v}" for a in (1, 4, 16) for v in (1, 2, 5)], ["1,1"]),
    System("mome-mhsa", {"adapter": {"routed_experts": 5}}, FOUR, FOUR),
    System("mome-layer", {"adapter": {"routed_experts": 5, "routers": "rates"}}, FOUR, FOUR),
    System("projectors-only", {"adapter": None}, FOUR, FOUR),
]
WORDS = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, backbones, and one cache of encoder tokens for all systems."""
    folder = tmp_path_factory.mktemp("systems")
    toy_corpus(folder / "data")
    toy_backbones(folder / "backbones")
    return folder


def recipe(toy: Path, folder: Path, system: str, model: dict[str, Any], **parts: Any) -> Path:
    backbones = {name: f"{toy}/backbones/{name}" for name in ("audio_encoder", "video_encoder", "language_model")}
    sizes = {"audio_context": "clip", "projector_hidden": 16, "generation": WORDS}
    changes = model.get("adapter", {})
    adapter = None if changes is None else {"bottleneck": 2, **changes}
    content = {
        "base": [f"systems/{system}"],
        "model": {**backbones, **sizes, **model, "adapter": adapter},
        "data": {
            "manifests": [f"{toy}/data/manifest.csv"],
            "cache": "tokens",
            "cache_folder": f"{toy}/cache",
            "variants": 1,
            "limit": 6,
            "max_frames": 60,
        },
        "optim": {"epochs": 1, "log_steps": 1, "learning_rate": 1e-3},
        "validation": {"rates": []},
        "output": f"{folder}/run",
    }
    for name, changed in parts.items():
        content[name] = {**content[name], **changed}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def history(output: Path) -> list[dict[str, float]]:
    return json.loads((output / "history.json").read_text())


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_from_recipe_to_transcripts(toy, tmp_path, system):
    output = train(recipe(toy, tmp_path, system.name, system.model))
    steps = [entry for entry in history(output) if "loss" in entry]
    assert len(steps) == 3
    for entry in steps:
        trained = {name.removeprefix("loss/") for name in entry if name.startswith("loss/")}
        if isinstance(system.trained, int):
            assert len(trained) == system.trained
            assert trained <= set(system.rates)
        else:
            assert trained == set(system.trained)
        logged = {name for name in entry if name.startswith("connector/")}
        assert logged == {f"connector/{name}" for name in system.logged}
        for router in {name.rpartition("/")[0] for name in logged if "load" in name}:
            assert sum(entry[f"{router}/load_{expert}"] for expert in range(4)) == pytest.approx(1)
    saved = load_file(output / "model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())
    ups = [value for name, value in saved.items() if name.endswith(("lora.up.weight", "lora.specific.up"))]
    assert all(value.any() for value in ups), "they start from zero"
    assert bool(ups) == (not system.name.startswith(("mome-", "projectors-only")))
    assert any("language_model" in name for name in saved) == (system.name != "projectors-only")
    assert {len(value) for name, value in saved.items() if name.endswith("specific.up")} == {system.groups} - {0}

    loaded = mome.load(output)
    rates = [Rates.parse(text) for text in system.rates]
    assert list(loaded.model.config.rate_set.rates()) == rates
    row = read_manifest(toy / "data" / "manifest.csv", "test")[0]
    clip = loaded.load_clip(row.path, rates)
    transcripts = loaded.transcribe_rates(clip, rates)
    assert [one.rates for one in transcripts] == rates
    for one in transcripts:
        assert len(one.text.split()) <= 3, "the model's own options of generation"
        if system.name == "mms-llama":
            assert (one.tokens.audio, one.tokens.video) == (0, 0)
            assert one.tokens.fused >= 3
            assert one.tokens.prompt == len(loaded.model.config.start_ids) > 5, "the instruction, and nothing else"
        else:
            frames, most = len(clip.mouth), 12 if system.name == "mqt" else 99
            audio = 0 if one.rates.audio is None else min(2 * frames // one.rates.audio, most)
            video = 0 if one.rates.video is None else min(frames // one.rates.video, most)
            assert (one.tokens.audio, one.tokens.video, one.tokens.fused) == (audio, video, 0)
    (result,) = evaluate(loaded, [row], make_conditions(rates[:1], [None]))
    assert (result.clips, result.failures) == (1, ())
    assert result.hypotheses[0].text == transcripts[0].text


def test_mms_llama_is_laid_out_as_published(toy, tmp_path):
    """Start token and instruction, then the queries, then the transcript between start and end token."""
    model = {**QFORMER, "bos": True, "bos_taught": True}
    output = train(recipe(toy, tmp_path, "mms-llama", model, optim={"steps": 4}))
    assert [entry["step"] for entry in history(output) if "loss" in entry] == [1, 2, 3, 4], "one epoch has 3"
    loaded = mome.load(output)
    tokenizer = loaded.processor.tokenizer
    instruction = tokenizer("Recognize this speech in English. Input : ").input_ids
    assert loaded.model.config.start_ids == [START, *instruction]
    assert loaded.model.config.text_ids("avsr") == []
    assert loaded.processor.labels(["bin blue"]).tolist() == [[START, *tokenizer("bin blue").input_ids, END]]
    transcript = loaded.transcribe(toy / "data" / "test_0_4.mp4")
    assert transcript.tokens.prompt == 1 + len(instruction)
    assert "<s>" not in transcript.text


@pytest.mark.parametrize("option", ["bos", "bos_taught"])
def test_a_start_token_that_the_tokenizer_does_not_have(toy, tmp_path, option):
    folder = tmp_path / "language_model"
    shutil.copytree(toy / "backbones" / "language_model", folder)
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    path = recipe(toy, tmp_path, "mms-llama", QFORMER)
    with pytest.raises(MomeError, match=f"has no start token: leave out model.{option}"):
        train(path, [f"model.language_model={folder}", f"model.{option}=true"])


def test_a_resampler_takes_any_rate(toy, tmp_path):
    output = train(recipe(toy, tmp_path, "mqt", {"connector": {"queries": 12, "heads": 4}}))
    steps = [entry for entry in history(output) if "loss/avsr" in entry]
    assert steps, "rates that are not listed are summed up by task"
    loaded = mome.load(output)
    row = read_manifest(toy / "data" / "manifest.csv", "test")[0]
    rates = [Rates(7, 3), Rates(23, 1), Rates.parse("6.25,2.5")]
    clip = loaded.load_clip(row.path, rates)
    frames = len(clip.mouth)
    for one, transcript in zip(rates, loaded.transcribe_rates(clip, rates), strict=True):
        tokens = (transcript.tokens.audio, transcript.tokens.video)
        assert tokens == (min(int(2 * frames / one.audio), 12), min(int(frames / one.video), 12))
    with pytest.raises(MomeError, match="any other"):
        loaded.model.config.rate_set.check(Rates(4, None))


@pytest.mark.parametrize(("sharing", "routers"), [("jedr", ["audio", "video"]), ("dedr", ["audio", "video"])])
def test_routers_of_each_modality_are_logged(toy, tmp_path, sharing, routers):
    path = recipe(toy, tmp_path, "llama-smop", {})
    content = yaml.safe_load(path.read_text())
    content["base"].append(f"systems/llama-smop-{sharing}")
    path.write_text(yaml.safe_dump(content))
    output = train(path)
    logged = {name.removeprefix("connector/") for name in history(output)[0] if name.startswith("connector/")}
    assert logged == {"balance_loss", "z_loss", *routed(*routers)}


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"rates_up_to": 8}, "it needs model.connector.type=resampler"),
        ({"rates_up_to": 0}, "optim.rates_up_to=0 is not possible"),
        ({"steps": 0}, "optim.steps=0 is not possible: give 1 or more"),
        ({"rates_up_to": 8, "rates_per_step": 1}, "optim.rates_per_step and optim.rates_up_to exclude each other"),
    ],
)
def test_draws_and_lengths_that_are_not_possible(toy, tmp_path, optim, message):
    with pytest.raises(MomeError, match=message):
        train(recipe(toy, tmp_path, "m3", {}, optim=optim))


def test_tasks_count_by_their_weights_and_are_validated_at_their_ends(toy, tmp_path):
    options = {"optim": {"epochs": 1, "log_steps": 1}, "validation": {"rates": None, "every_steps": 3, "limit": 1}}
    output = train(recipe(toy, tmp_path, "omni-avsr-s", {}, **options))
    weights = {"avsr": 1.0, "asr": 1.0, "vsr": 1.5}
    for entry in history(output):
        losses = {Rates.parse(name[5:]): value for name, value in entry.items() if name.startswith("loss/")}
        if losses:
            assert sorted(rates.task for rates in losses) == sorted(weights)
            mean = sum(weights[rates.task] * value for rates, value in losses.items()) / 3
            assert entry["loss"] == pytest.approx(mean, abs=1e-3)
    validated = {name for entry in history(output) for name in entry if name.startswith("eval_wer/")}
    assert validated == {f"eval_wer/{rates}" for rates in ("4,2", "16,5", "4,-", "16,-", "-,2", "-,5")}


def test_rates_count_by_their_weights(toy, tmp_path):
    weights = {"4,2": 0.0, "4,5": 1.0, "16,2": 1.0, "16,5": 3.0}
    optim = {"epochs": 1, "log_steps": 1, "rate_weights": {"4,2": 0.0, "16,5": 3.0}}
    output = train(recipe(toy, tmp_path, "llama-mtsk-ms", {}, optim=optim))
    steps = [entry for entry in history(output) if "loss" in entry]
    assert len(steps) == 3
    for entry in steps:
        mean = sum(weight * entry[f"loss/{rates}"] for rates, weight in weights.items()) / 4
        assert entry["loss"] == pytest.approx(mean, abs=1e-3)


def test_only_the_rates_and_clips_asked_for(toy, tmp_path):
    options = {
        "optim": {"epochs": 2, "log_steps": 1, "rates": ["16,2", "4,5"]},
        "data": {"limit": 2, "cache": "clips", "cache_folder": f"{tmp_path}/cache"},
    }
    path = recipe(toy, tmp_path, "llama-mtsk-ss", {})
    content = yaml.safe_load(path.read_text())
    for name, changed in options.items():
        content[name] |= changed
    path.write_text(yaml.safe_dump(content))
    output = train(path)
    assert len(list((tmp_path / "cache" / "clips").iterdir())) == 2
    steps = [entry for entry in history(output) if "loss" in entry]
    assert len(steps) == 2, "two clips of 25 frames are one batch"
    for entry in steps:
        assert {name for name in entry if name.startswith("loss/")} == {"loss/16,2", "loss/4,5"}
    saved = load_file(output / "model.safetensors")
    for name, value in saved.items():
        if name.endswith("specific.up"):  # in the order of all rates; those left out stay as they were
            assert torch.stack([part.any() for part in value]).tolist() == [False, True, True, False]
